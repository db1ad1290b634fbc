"""ImageScope through the door, on all six data sets of the paper as miniatures in their official layout."""

import json
from contextlib import contextmanager

import pytest

from contextcir.cli import benchmark as door
from contextcir.cli import visualize
from contextcir.retrieval.imagescope.trace import read_trace
from tests.benchmarks.test_circo import IDS
from tests.benchmarks.test_circo import mini as circo_folder  # noqa: F401 - fixtures
from tests.benchmarks.test_cirr import NAMES
from tests.benchmarks.test_cirr import mini as cirr_folder  # noqa: F401
from tests.benchmarks.test_fashioniq import mini as fashioniq_folder  # noqa: F401
from tests.benchmarks.test_karpathy import mini as karpathy_folder  # noqa: F401
from tests.benchmarks.test_visdial import mini as visdial_folder  # noqa: F401
from tests.imagescope_world import World
from tests.tiny_triplets import png, write_benchmark


@pytest.fixture
def measure(tmp_path, clip_folder, monkeypatch):
    """Measures a benchmark with roles that know the truth, and a CLIP that knows nothing."""

    def measure(name, root, pictures: World, *more):
        @contextmanager
        def panel_of(args, servers, benchmark):
            assert benchmark == name
            yield pictures.panel(tmp_path / "trace", benchmark=benchmark)

        monkeypatch.setattr("contextcir.cli.imagescope.panel_of", panel_of)
        argv = ["--retriever", "imagescope", "--clip", clip_folder, "--benchmark", name, "--data-root", str(root)]
        return door.main([*argv, "--trace", str(tmp_path / "trace"), "--verified", "60", *map(str, more)])

    return measure


def numbered(numbers, target) -> World:
    return World({number: png(number) for number in numbers}, target)


def next_one(text, reference):
    return reference + 1


def test_cirr_leaves_the_reference_out_everywhere(cirr_folder, measure, tmp_path):  # noqa: F811
    pictures = numbered(range(60), next_one)
    record = measure("cirr", cirr_folder, pictures)
    assert set(record["results"][0]["metrics"].values()) == {100.0}  # the gallery's recall and the subset's
    measure("cirr", cirr_folder, pictures, "--split", "test1", "--submission", tmp_path / "out")
    for metric, length in (("recall", 50), ("recall_subset", 3)):
        content = json.loads((tmp_path / "out" / f"test1_{metric}.json").read_text())
        for number in range(4):
            names = content[str(100 + number)]
            assert names[0] == NAMES[number + 1] and NAMES[number] not in names and len(names) == length
    for line in read_trace(tmp_path / "trace" / "trace.jsonl"):
        assert line["reference"] not in line["evaluated"] + line["candidates"]["evaluated"]


def test_circo_is_submitted_in_integers(circo_folder, measure, tmp_path):  # noqa: F811
    targets = [IDS[1], IDS[6], IDS[40]]
    pictures = numbered(IDS, lambda text, reference: targets[int(text.split("teddy bear ")[1][0])])
    text = ("--text", "concept-caption")
    record = measure("circo", circo_folder, pictures, *text, "--output", tmp_path / "circo.json")
    metrics = record["results"][0]["metrics"]
    assert metrics["recall@5"] == 100 and metrics["map@5"] >= (100 / 3 + 20 + 100) / 3
    assert json.loads((tmp_path / "circo.json").read_text())["arguments"]["tau"] == 0.15
    measure("circo", circo_folder, pictures, *text, "--split", "test", "--submission", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "circo_test.json").read_text())
    assert [ids[0] for ids in content.values()] == targets
    assert all(type(id_) is int for ids in content.values() for id_ in ids)
    prompts = [request.prompt for request in pictures.asked["reasoner"]]
    assert any(prompt.startswith("Somebody is looking at a photograph of everyday life") for prompt in prompts)


@pytest.mark.parametrize("protocol", ["full", "union"])
def test_fashioniq_in_three_parts(fashioniq_folder, measure, protocol, tmp_path):  # noqa: F811
    pictures = numbered(range(15), lambda text, reference: {0: 2, 1: 3, 2: 11}[reference])
    record = measure("fashioniq", fashioniq_folder, pictures, "--protocol", protocol)
    (result,) = record["results"]
    assert result["metrics"] == {"recall@10": 100, "recall@50": 100} and len(result["parts"]) == 3
    # The parts share their pictures: each is captioned once, by what a shopper looks at.
    assert pictures.counts()["captioner"] == (15 if protocol == "full" else 5)
    assert pictures.asked["captioner"][0].prompt.startswith("Describe the garment")
    assert result["calls"]["captioner"]["answered"] == pictures.counts()["captioner"]
    where = ["--benchmark", "fashioniq", "--data-root", str(fashioniq_folder), "--protocol", protocol]
    visualize.main(["--trace", str(tmp_path / "trace"), *where, "--queries", "3"])
    drawn = sorted(path.name for path in (tmp_path / "trace" / "figures").iterdir())
    assert [name.split("-")[0] for name in drawn] == ["funnel_dress", "funnel_shirt", "funnel_toptee"]


def test_flickr30k_and_coco(karpathy_folder, measure):  # noqa: F811
    benchmark, root = karpathy_folder
    pictures = numbered(range(3), lambda text, reference: {1: 0, 3: 1, 4: 2, 5: 2}[int(text.split()[3]) // 2])
    record = measure(benchmark.name, root, pictures)
    assert record["results"][0]["metrics"] == {"recall@1": 100, "recall@5": 100, "recall@10": 100}


def test_visdial_round_by_round(visdial_folder, measure):  # noqa: F811
    pictures = numbered(range(20), lambda text, reference: 3 if text.startswith("a dog") else 19)
    record = measure("visdial", visdial_folder, pictures)
    metrics = record["results"][0]["metrics"]
    assert [metrics[f"hits@10/r{number}"] for number in range(11)] == [100] * 11 and metrics["bri"] == 0
    reasoning = [request for request in pictures.asked["reasoner"] if request.schema.__name__ == "Reasoning"]
    assert len(reasoning) == 22  # eleven rounds of two dialogues, the first included, none twice


def test_each_stage_is_measured_for_the_price_of_the_last(measure, tmp_path, run):
    """And with --rerank, the first of them is another model."""
    folder = write_benchmark(tmp_path / "data", queries=6)
    pictures = numbered(range(12), next_one)
    more = ["--split", "validation", "--after_each_stage", "--evaluated", "2"]
    record = measure("custom", folder, pictures, *more)
    assert [result["retriever"] for result in record["results"]] == [
        *("imagescope, retrieved", "imagescope, verified", "imagescope")
    ]
    first, verified, last = [result["metrics"]["recall@1"] for result in record["results"]]
    assert first < verified == last == 100
    counts = pictures.counts()
    assert (counts["captioner"], counts["reasoner"], counts["verifier"]) == (12, 12, 6 * 11)
    assert 12 <= counts["evaluator"] <= 24  # two of the gallery and two candidates, which may be the same
    again = measure("custom", folder, pictures, *more, "--rerank", run)
    assert [result["metrics"]["recall@1"] for result in again["results"]][1:] == [100, 100]
    assert pictures.counts()["verifier"] == 6 * 11  # the same questions about the same pictures
    assert again["results"][2]["calls"]["verifier"] == {"reused": 2 * 6 * 11}


def test_errors_are_readable(tmp_path):
    argv = ["--retriever", "imagescope", "--benchmark", "scenes", "--data-root", str(tmp_path)]
    with pytest.raises(ValueError, match="give it a folder with --trace"):
        door.main(argv)
    argv[1] = "runs/demo"
    with pytest.raises(ValueError, match="no effect without --retriever imagescope"):
        door.main([*argv, "--rerank", "runs/other"])
