"""`contextcir benchmark` as people call it: a model, its CLIP's baselines, a table and JSON, readable errors."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import pytest
from datasets import Image, List, Value
from transformers import CLIPModel

from contextcir.benchmarks.published import load_published
from contextcir.cli import benchmark
from contextcir.cli.loading import find_clip
from contextcir.retrieval.baselines import clip_baselines
from contextcir.retrieval.dense import DenseRetriever
from datasets_scripts import build_scenes
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from tests.benchmarks.test_base import IDS
from tests.benchmarks.test_published import png, write

NAMES = ["CLIP, image only", "CLIP, text only", "CLIP, image + text", "CLIP, slerp", "CLIP, image x text"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, string = tmp_path_factory.mktemp("grocery"), Value("string")
    images = [{"id": id_, "image": png(30 * place)} for place, id_ in enumerate(IDS)]
    write(root, "gallery", images, {"id": string, "image": Image()})
    rows = [
        {
            "id": f"q{i}",
            "reference_image": images[i]["image"],
            "reference_id": IDS[i],
            "modification_text": text,
            "candidate_ids": IDS[i : i + 4],
            "tags": [text],
        }
        for i, text in enumerate(["red", "the red", "red"])
    ]
    features = {name: string for name in ("id", "reference_id", "modification_text")}
    features |= {"reference_image": Image(), "candidate_ids": List(string), "tags": List(string)}
    write(root, "queries", rows, features)
    pairs = [{"query_id": f"q{i}", "target_id": IDS[i + j]} for i, j in [(0, 1), (0, 5), (1, 2), (2, 3)]]
    write(root, "relevance", pairs, {"query_id": string, "target_id": string})
    return root


def arguments(data, *more):
    return ["--benchmark", "grocery", "--data-root", str(data), "--split", "test", *map(str, more)]


def test_model_and_baselines(run, data, clip_folder, tmp_path, capsys):
    output = tmp_path / "new" / "metrics.json"
    record = benchmark.main(arguments(data, "--retriever", run, "--baselines", "--output", output, "--batch-size", 2))
    assert json.loads(output.read_text()) == record
    assert re.fullmatch(r"grocery-[0-9a-f]{8}/test/reference-excluded", record["protocol_id"])
    assert (record["num_queries"], record["gallery_size"], record["clip"]) == (3, len(IDS), clip_folder)
    assert record["command"].startswith("contextcir benchmark --benchmark grocery")
    assert record["versions"]["torch"] == importlib.metadata.version("torch")
    assert [result["retriever"] for result in record["results"]] == [str(run), *NAMES]

    # Each row is what the retriever gives when it is called by hand.
    loaded = load_published(str(data), "test")
    clip, processor = CLIPModel.from_pretrained(clip_folder), ContextCIRProcessor.from_pretrained(run)
    by_hand = [
        DenseRetriever.from_model(ContextCIRModel.from_pretrained(run), processor),
        *clip_baselines(clip, processor).values(),
    ]
    for result, retriever in zip(record["results"], by_hand, strict=True):
        ranking = retriever.search(loaded.queries, loaded.gallery, loaded.k, exclude_reference=True)
        assert result["metrics"] == loaded.evaluate(ranking), result["retriever"]
        assert result["by_tag"]["red"]["num_queries"] == 2

    lines = capsys.readouterr().out.splitlines()
    title = f"{record['protocol_id']}: 3 queries, 8 images, in percent with 95 % intervals"
    assert lines[0] == title
    assert lines[2].split() == ["recall", "recall_subset", "map"]
    assert lines[3].split() == ["@1", "@5", "@10", "@50", "@1", "@2", "@3", "@5", "@10", "@25", "@50"]
    for line, below, result in zip(lines[4:16:2], lines[5:16:2], record["results"], strict=True):
        name = result["retriever"]
        assert line.startswith(name) and len(line) == len(below) == len(lines[3])
        assert line[len(name) :].split() == [f"{value:.2f}" for value in result["metrics"].values()]
        assert below.split() == [f"{low:.1f}-{high:.1f}" for low, high in result["intervals"].values()]
        assert all(low <= result["metrics"][key] <= high for key, (low, high) in result["intervals"].items())
    assert lines[16].split() == ["chance", *(f"{value:.2f}" for value in loaded.chance().values())]

    sides = [json.loads(line) for line in output.with_suffix(".queries.jsonl").read_text().splitlines()]
    assert len(sides) == 3 * len(record["results"])
    ranking = by_hand[0].search(loaded.queries, loaded.gallery, loaded.k, exclude_reference=True)
    assert [side["id"] for side in sides[:3]] == ["q0", "q1", "q2"]
    assert [side["top"] for side in sides[:3]] == [ids[:10] for ids in ranking.gallery_ids]
    assert [side["scores"]["recall@1"] for side in sides[:3]] == loaded.scores(ranking)["recall@1"].tolist()


@pytest.mark.slow
def test_scenes_say_what_goes_wrong_and_where_phrases_look(run, clip_folder, tmp_path, capsys):
    sizes = {"num_train": 2, "num_validation": 24, "num_test": 24, "gallery_size": 200, "image_size": 48}
    build_scenes.main(["--output", f"{tmp_path}/scenes", *(f"--{name}={size}" for name, size in sizes.items())])
    capsys.readouterr()
    argv = ["--benchmark", "scenes", "--data-root", str(tmp_path), "--retriever", str(run), "--baselines"]
    record = benchmark.main([*argv, "--output", str(tmp_path / "metrics.json")])
    assert record["protocol_id"].startswith("scenes-") and record["gallery_size"] == 200
    assert json.loads((tmp_path / "metrics.json").read_text()) == record
    for result in record["results"]:
        everything = result["profile"]["all"]
        assert everything["recall@1"] == result["metrics"]["recall@1"] == everything["kinds"]["target"]["rank1"]
        assert everything["interval"] == result["intervals"]["recall@1"]
        assert set(result["profile"]) == {"all", "split:iid", "edits:1", "edits:2"}
    grounding = record["grounding"]
    assert set(grounding) > {"all"} and 0 < grounding["all"]["chance"] < grounding["all"]["ceiling"]
    out = capsys.readouterr().out
    assert "At rank 1, in percent" in out and f"Where noun phrases look, in percent: {run}" in out

    argv = ["--benchmark", "scenes", "--data-root", str(tmp_path), "--clip", clip_folder, "--baselines"]
    assert "grounding" not in benchmark.main(argv)  # CLIP has no attention of phrases
    with pytest.raises(ValueError, match="splits test, validation, got 'iid'"):
        benchmark.main([*argv, "--split", "iid"])


def test_the_gallery_is_kept_and_its_quantised_copy_is_measured(run, data, tmp_path, monkeypatch):
    argv = ["--benchmark", "custom", "--data-root", str(data), "--split", "test", "--retriever", str(run)]
    argv += ["--gallery_cache", str(tmp_path / "cache"), "--num_workers", "1"]
    first = benchmark.main([*argv, "--index", "int8"])
    assert [result["retriever"] for result in first["results"]] == [str(run), f"{run}, int8"]
    assert first["results"][0]["metrics"] == first["results"][1]["metrics"]  # so few images are all rescored
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert kept
    monkeypatch.setattr("contextcir.retrieval.store.cache.index_images", None)  # it must not be needed
    assert benchmark.main(argv)["results"][0]["metrics"] == first["results"][0]["metrics"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")} == kept
    with pytest.raises(ValueError, match="--index"):
        benchmark.main([*argv[:4], "--baselines", "--clip", str(run), "--index", "int8"])


def test_baselines_alone_and_data_of_ones_own(data, clip_folder):
    record = benchmark.main(
        ["--clip", clip_folder, "--baselines", "--benchmark", "custom", "--data-root", str(data), "--split", "test"]
    )
    assert [result["retriever"] for result in record["results"]] == NAMES
    assert re.fullmatch(rf"{data.name}-[0-9a-f]{{8}}/test/reference-excluded", record["protocol_id"])


def test_the_clip_at_the_root_of_a_model(run, clip_folder, tmp_path):
    later = tmp_path / "later"
    later.mkdir()
    (later / "training.json").write_text(json.dumps({"model": {"base_model": str(run)}}))
    assert find_clip(str(later)) == clip_folder


def test_errors_are_readable(run, data, clip_folder, tmp_path):
    cases = [
        (
            ["--benchmark", "cirrr", "--data-root", "x", "--retriever", "x"],
            "no benchmark 'cirrr'. Choose one of cirr, circo",
        ),
        (arguments(data), "nothing to measure"),
        (arguments(data, "--baselines"), "nothing to measure"),
        (arguments(data, "--retriever", tmp_path, "--baselines"), "no training.json .* Give --clip"),
        (arguments(data, "--retriever", clip_folder), "is a CLIPModel, .*--baselines --clip"),
        (arguments(data, "--retriever", run, "--split", "val"), "Splits that it has: test"),
        (arguments(tmp_path, "--retriever", run), "has no gallery/test-"),
    ]
    for argv, problem in cases:
        with pytest.raises(ValueError, match=problem):
            benchmark.main(argv)


def test_a_clip_that_is_not_whole_is_refused(run, data, clip_folder, tmp_path):
    clip = CLIPModel.from_pretrained(clip_folder)
    clip.logit_scale.data.fill_(float("nan"))
    clip.save_pretrained(tmp_path)
    ContextCIRProcessor.from_pretrained(clip_folder).save_pretrained(tmp_path)
    for folder, problem in ((tmp_path, "infinite values in logit_scale"), (run, "lack text_projection.weight")):
        with pytest.raises(ValueError, match=problem):
            benchmark.main(arguments(data, "--clip", folder, "--baselines"))


def test_as_a_command_an_error_is_one_line(data, request):
    command = [sys.executable, "benchmark.py", *arguments(data)]
    result = subprocess.run(
        command, cwd=request.config.rootpath, env=os.environ, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("contextcir benchmark: There is nothing to measure")
    assert "Traceback" not in result.stderr
