"""End to end: scenes, an oracle server in all four roles, the command line, and recall after each stage."""

import json
import random

import pytest

from contextcir.chat.exchange import ChatStop
from contextcir.chat.server import ChatServer
from contextcir.cli import benchmark
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


@pytest.fixture
def measure(scenes, tmp_path):
    """Measure ImageScope on the scenes with the server at an address."""

    def measure(url, *more):
        argv = ["--retriever", "imagescope", "--clip", "checkpoints/scenes-clip-tiny", "--benchmark", "folder"]
        argv += ["--data-root", str(scenes[0]), "--trace", str(tmp_path / "trace"), "--cache", str(tmp_path / "cache")]
        argv += ["--chat_model", "oracle", "--base_url", url, "--free", "--after_each_stage", *more]
        return {result["retriever"]: result for result in benchmark.main(argv)["results"]}

    return measure


def test_recall_rises_from_stage_to_stage_and_nothing_is_asked_twice(scenes, measure, tmp_path):
    oracle = Oracle(scenes[1])
    with oracle as url:
        results = measure(url)
        asked = oracle.num_answered
        again = measure(url)
    stages = [results[name]["metrics"] for name in ("imagescope, retrieved", "imagescope, verified", "imagescope")]
    retrieved, verified, evaluated = [metrics["recall@1"] for metrics in stages]
    assert retrieved < evaluated and verified <= evaluated and evaluated >= 80
    assert stages[2]["recall_subset@1"] >= 80
    assert oracle.num_answered == asked and set(oracle.answered.values()) == {1}
    assert {name: result["metrics"] for name, result in again.items()} == {
        name: result["metrics"] for name, result in results.items()
    }
    assert all(count.keys() == {"reused"} for count in again["imagescope"]["calls"].values())
    lines = list(read_trace(tmp_path / "trace" / "trace.jsonl"))
    assert len(lines) == QUERIES and all(line["prompt_tokens"] > 0 for line in lines)


def test_a_server_that_is_down_or_lacks_a_model_is_named_with_its_role(scenes, measure, monkeypatch):
    monkeypatch.setitem(ChatServer.__init__.__kwdefaults__, "max_retries", 0)  # without the pauses between attempts
    with pytest.raises(ChatStop, match=r"captioner \(oracle\).*http://127.0.0.1:9/v1") as stop:
        measure("http://127.0.0.1:9/v1")
    assert stop.value.reason == "unreachable"
    with Oracle(scenes[1]) as url, pytest.raises(ChatStop, match=r"captioner \(blind\).*'blind'") as stop:
        measure(url, "--captioner", "blind")
    assert stop.value.reason == "model"


def test_a_server_without_usable_answers_is_named_with_its_role(scenes, measure):
    with Oracle(scenes[1], faults=Faults(refusals=1.0)) as url:
        with pytest.raises(ChatStop, match=r"captioner \(oracle\).* 20 .*refused"):
            measure(url)
