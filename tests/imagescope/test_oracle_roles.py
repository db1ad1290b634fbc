"""The whole way: drawn scenes, a server on loopback that plays all four roles, the command line, recall by stage."""

import json
import random

import pytest

from contextcir.chat.server import ChatStop
from contextcir.cli import benchmark as door
from contextcir.retrieval.imagescope.trace import read_trace
from contextcir.scenes import mistakes, render, sample_query
from contextcir.scenes.oracle import Faults, Oracle
from contextcir.scenes.truth import Truth

QUERIES = 5


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder of scenes with queries, and the truth about it."""
    root, truth, rng, lines = tmp_path_factory.mktemp("scenes"), Truth(), random.Random(0), []
    (root / "images").mkdir()

    def add(scene) -> str:
        name = f"{len(list((root / 'images').iterdir())):03d}.png"
        image = render(scene, rng.getrandbits(48), 96)
        image.save(root / "images" / name)
        truth.add(image, scene, name=name)
        return name

    for _ in range(QUERIES):
        query = sample_query(rng, 2)
        truth.add_query(query.text, query.target, query.reference)
        reference, target = add(query.reference), add(query.target)
        wrong = [add(scene) for found in mistakes(rng, query, query.edits).values() for scene in found]
        lines.append({"reference": reference, "text": query.text, "targets": [target], "candidates": [target, *wrong]})
    (root / "queries.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root, truth


def measure(root, url, folder, *more):
    argv = ["--retriever", "imagescope", "--clip", "checkpoints/scenes-clip-tiny", "--benchmark", "folder"]
    argv += ["--data-root", str(root), "--trace", str(folder / "trace"), "--cache", str(folder / "cache")]
    argv += ["--chat_model", "oracle", "--base_url", url, "--free", "--after_each_stage", *more]
    return {result["retriever"]: result for result in door.main(argv)["results"]}


def test_recall_rises_from_stage_to_stage_and_nothing_is_asked_twice(scenes, tmp_path):
    root, truth = scenes
    oracle = Oracle(truth)
    with oracle as url:
        results = measure(root, url, tmp_path)
        asked = oracle.num_answered
        again = measure(root, url, tmp_path)
    stages = [results[name]["metrics"] for name in ("imagescope, retrieved", "imagescope, verified", "imagescope")]
    retrieved, verified, evaluated = [metrics["recall@1"] for metrics in stages]
    assert retrieved < evaluated and verified <= evaluated and evaluated >= 80
    assert stages[2]["recall_subset@1"] >= 80
    assert oracle.num_answered == asked and set(oracle.answered.values()) == {1}
    assert {name: result["metrics"] for name, result in again.items()} == {
        name: result["metrics"] for name, result in results.items()
    }
    lines = list(read_trace(tmp_path / "trace" / "trace.jsonl"))
    assert len(lines) == QUERIES and all(line["prompt_tokens"] > 0 for line in lines)


def test_a_server_that_is_down_or_lacks_a_model_is_named_with_its_role(scenes, tmp_path):
    root, truth = scenes
    with pytest.raises(ChatStop, match=r"The captioner \(oracle\): There is no server at http://127.0.0.1:9/v1"):
        measure(root, "http://127.0.0.1:9/v1", tmp_path)
    with Oracle(truth) as url, pytest.raises(ChatStop, match=r"The captioner \(blind\): There is no model 'blind'"):
        measure(root, url, tmp_path, "--captioner", "blind")


def test_a_server_that_breaks_its_answers_is_named_with_its_role(scenes, tmp_path):
    root, truth = scenes
    oracle = Oracle(truth, faults=Faults(refusals=1.0))
    with (
        oracle as url,
        pytest.raises(ChatStop, match="The captioner .oracle. answered none of its first 20"),
    ):
        measure(root, url, tmp_path)
