"""ImageScope from the command line, on miniatures of the paper's six data sets in their official layout."""

import json

import pytest

from contextcir.chat.exchange import Outcome
from contextcir.cli import benchmark, visualize
from contextcir.cli.running import UnansweredError
from contextcir.cli.servers import ServerArguments
from contextcir.retrieval.imagescope.trace import read_trace
from tests.benchmarks.test_circo import IDS
from tests.benchmarks.test_circo import mini as circo_folder  # noqa: F401 - fixtures
from tests.benchmarks.test_cirr import NAMES
from tests.benchmarks.test_cirr import mini as cirr_folder  # noqa: F401
from tests.benchmarks.test_fashioniq import mini as fashioniq_folder  # noqa: F401
from tests.benchmarks.test_karpathy import mini as karpathy_folder  # noqa: F401
from tests.benchmarks.test_visdial import mini as visdial_folder  # noqa: F401
from tests.imagescope_world import World, world
from tests.tiny_triplets import write_benchmark


@pytest.fixture
def measure(tmp_path, clip_folder, monkeypatch):
    """Measure a benchmark with roles that know the truth and a random CLIP."""

    def measure(name, root, pictures: World, *more):
        monkeypatch.setattr(ServerArguments, "build", lambda self, model, url: pictures.server(model))
        argv = ["--retriever", "imagescope", "--clip", clip_folder, "--benchmark", name, "--data-root", str(root)]
        argv += ["--trace", str(tmp_path / "trace"), "--cache", str(tmp_path / "cache"), "--verified", "60"]
        return benchmark.main([*argv, *map(str, more)])

    return measure


def next_number(text, reference):
    return reference + 1


def test_cirr_leaves_out_the_reference_everywhere(cirr_folder, measure, tmp_path):  # noqa: F811
    pictures = world(range(60), next_number)
    record = measure("cirr", cirr_folder, pictures)
    assert set(record["results"][0]["metrics"].values()) == {100.0}  # recall in the gallery and in the subset
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
    pictures = world(IDS, lambda text, reference: targets[int(text.split("teddy bear ")[1][0])])
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
    pictures = world(range(15), lambda text, reference: {0: 2, 1: 3, 2: 11}[reference])
    record = measure("fashioniq", fashioniq_folder, pictures, "--protocol", protocol)
    (result,) = record["results"]
    assert result["metrics"] == {"recall@10": 100, "recall@50": 100} and len(result["parts"]) == 3
    # The parts share their images: each is captioned once, with the prompt for garments.
    assert pictures.counts()["captioner"] == (15 if protocol == "full" else 5)
    assert pictures.asked["captioner"][0].prompt.startswith("Describe the garment")
    assert result["calls"]["captioner"]["answered"] == pictures.counts()["captioner"]
    where = ["--benchmark", "fashioniq", "--data-root", str(fashioniq_folder), "--protocol", protocol]
    visualize.main(["--trace", str(tmp_path / "trace"), *where, "--queries", "3"])
    drawn = sorted(path.name for path in (tmp_path / "trace" / "figures").iterdir())
    assert [name.split("-")[0] for name in drawn] == ["funnel_dress", "funnel_shirt", "funnel_toptee"]


def test_flickr30k_and_coco(karpathy_folder, measure):  # noqa: F811
    layout, root = karpathy_folder
    pictures = world(range(3), lambda text, reference: {1: 0, 3: 1, 4: 2, 5: 2}[int(text.split()[3]) // 2])
    record = measure(layout.name, root, pictures)
    assert record["results"][0]["metrics"] == {"recall@1": 100, "recall@5": 100, "recall@10": 100}


def test_visdial_round_by_round(visdial_folder, measure):  # noqa: F811
    pictures = world(range(20), lambda text, reference: 3 if text.startswith("a dog") else 19)
    record = measure("visdial", visdial_folder, pictures)
    metrics = record["results"][0]["metrics"]
    assert [metrics[f"hits@10/r{number}"] for number in range(11)] == [100] * 11 and metrics["bri"] == 0
    reasoning = [request for request in pictures.asked["reasoner"] if request.schema.__name__ == "Reasoning"]
    assert len(reasoning) == 22  # eleven rounds of two dialogues, each once


def test_measuring_each_stage_sends_no_more_requests_than_the_last_one(measure, tmp_path, run):
    """The same with --rerank, where the first stage is another model."""
    folder = write_benchmark(tmp_path / "data", queries=6)
    pictures = world(range(12), next_number)
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
    assert pictures.counts()["verifier"] == 6 * 11  # the same questions about the same images
    assert again["results"][2]["calls"]["verifier"] == {"reused": 2 * 6 * 11}


@pytest.mark.fault("G01", "a line for each role says how many questions failed, and what the server said most often")
@pytest.mark.parametrize("role", ["reasoner", "evaluator"])
def test_a_role_that_fails_makes_the_results_incomplete(measure, tmp_path, capsys, role):
    folder = write_benchmark(tmp_path / "data", queries=4)
    pictures = world(range(8), next_number)
    pictures.faults[role] = lambda request: Outcome("failed", error="503: \x1b[2Jgone")
    more = ["--split", "validation", "--evaluated", "2", "--output", tmp_path / "metrics.json"]
    with pytest.raises(UnansweredError, match=rf"custom: More than 5% failed: {role} (\d+) of \1") as caught:
        measure("custom", folder, pictures, *more)
    assert caught.value.exit_code == 5
    printed = capsys.readouterr()
    assert printed.out.startswith("INCOMPLETE. More than 5% failed") and "recall" in printed.out
    assert f"{role}: 0 answered, " in printed.err and "failed: 503: \\x1b[2Jgone." in printed.err
    assert "captioner: 1" in printed.err and "\x1b" not in printed.err + printed.out
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert role in record["incomplete"] and record["results"][0]["failures"][role]["most_often"].startswith("failed")
    pictures.faults.clear()
    record = measure("custom", folder, pictures, *more)
    assert "incomplete" not in record and "INCOMPLETE" not in capsys.readouterr().out


@pytest.mark.fault("G01", "a line for each role says how many questions failed, and what the server said most often")
def test_some_failures_are_told_and_allowed(measure, tmp_path, capsys):
    folder = write_benchmark(tmp_path / "data", queries=4)
    pictures = world(range(8), next_number)
    pictures.faults["verifier"] = lambda request: Outcome("refused") if len(pictures.asked["verifier"]) == 2 else None
    record = measure("custom", folder, pictures, "--split", "validation", "--max_failed", "0.2")
    assert "incomplete" not in record and "verifier: 27 answered, 1 failed (1 refused)" in capsys.readouterr().err
    with pytest.raises(ValueError, match="max_failed.*1.5"):
        measure("custom", folder, pictures, "--max_failed", "1.5")


@pytest.mark.fault("M06", "no record, message or command names a password, a key or the query of an address")
def test_no_password_is_written(measure, tmp_path, capsys):
    folder = write_benchmark(tmp_path / "data", queries=2)
    output = tmp_path / "results" / "metrics.json"
    urls = ["--base_url", "http://me:pa55@127.0.0.1:9/v1?token=pa55", "--reasoner_url=http://a:pa55@127.0.0.1:9/"]
    measure("custom", folder, world(range(4), next_number), "--split", "validation", "--output", output, *urls)
    record = json.loads(output.read_text())
    assert record["arguments"]["base_url"] == "http://127.0.0.1:9/v1" and "127.0.0.1" in record["command"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5 and not [path for path in files if b"pa55" in path.read_bytes()]
    printed = capsys.readouterr()
    assert "pa55" not in printed.out + printed.err


def test_missing_and_useless_options_are_refused(tmp_path):
    argv = ["--benchmark", "scenes", "--data-root", str(tmp_path)]
    with pytest.raises(ValueError, match="--trace"):
        benchmark.main(["--retriever", "imagescope", *argv])
    with pytest.raises(ValueError, match="--retriever imagescope"):
        benchmark.main(["--retriever", "runs/demo", *argv, "--rerank", "runs/other"])
