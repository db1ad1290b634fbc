"""From a run folder or a trace, and a benchmark, to pictures."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

pytest.importorskip("matplotlib")

from contextcir import visualization  # noqa: E402
from contextcir.benchmarks.published import load_published  # noqa: E402
from contextcir.cli import loading, visualize  # noqa: E402
from contextcir.retrieval.imagescope.trace import Trace, query_key  # noqa: E402
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor, InstructCIRModel, InstructCIRProcessor  # noqa: E402

FIGURES = ["concept_attention.png", "retrieval_grid.png", "training_curves.png"]
NUM_QUERIES, GALLERY_SIZE = 5, 7  # smaller than the ten images of a row


def png(seed: int) -> dict:
    buffer = io.BytesIO()
    size = (34 + seed, 30, 3)
    PILImage.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture(scope="module")
def benchmark_folder(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("benchmark")
    string = Value("string")
    texts = ["make the red square blue", "remove it", "add a star", "swap the circles " * 40, "brighter"]
    tables = {
        "gallery": (
            [{"id": f"g{i}", "image": png(i)} for i in range(GALLERY_SIZE)],
            Features({"id": string, "image": Image()}),
        ),
        "queries": (
            [
                {"id": f"q{i}", "reference_id": f"g{i}", "modification_text": text, "candidate_ids": []}
                for i, text in enumerate(texts)
            ],
            Features(
                {"id": string, "reference_id": string, "modification_text": string, "candidate_ids": List(string)}
            ),
        ),
        "relevance": (
            [{"query_id": f"q{i}", "target_id": f"g{i + 1}"} for i in range(NUM_QUERIES)],
            Features({"query_id": string, "target_id": string}),
        ),
    }
    for name, (rows, features) in tables.items():
        (root / name).mkdir()
        Dataset.from_list(rows, features=features).to_parquet(root / name / "test-00000-of-00001.parquet")
    return str(root)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, clip_folder) -> str:
    folder = tmp_path_factory.mktemp("runs") / "with_cc"
    torch.manual_seed(0)
    ContextCIRModel.from_clip_pretrained(clip_folder).save_pretrained(folder)
    ContextCIRProcessor.from_pretrained(clip_folder).save_pretrained(folder)
    history = [{"step": step, "loss": 1 / step, "loss_concept_consistency": 0.1} for step in (1, 2, 3)]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return str(folder)


@pytest.fixture(autouse=True)
def no_parser(monkeypatch):
    """Noun phrases without spaCy: two words after each "the"."""

    class FakeExtractor:
        def extract(self, texts):
            return [self._phrases(text) for text in texts]

        def _phrases(self, text):
            start = text.find("the ")
            return [] if start < 0 else [{"text": text[start : start + 7], "start": start, "end": start + 7}]

    monkeypatch.setattr("contextcir.phrases.extractor.NounPhraseExtractor", FakeExtractor)


@pytest.fixture
def drawn(monkeypatch) -> dict:
    """The arguments of the functions that draw."""
    calls = {}

    def recorded(name, draw):
        def record(*args):
            calls[name] = args
            return draw(*args)

        return record

    for name in ("retrieval_grid", "concept_attention_figure", "training_curves", "profile_figure"):
        monkeypatch.setattr(visualization, name, recorded(name, getattr(visualization, name)))
    return calls


def test_three_pictures_of_one_run(run_folder, benchmark_folder, drawn):
    visualize.main(["--run", run_folder, "--data-root", benchmark_folder, "--queries", "3"])
    folder = visualize.Path(run_folder, "figures")
    assert sorted(path.name for path in folder.iterdir()) == FIGURES
    for path in folder.iterdir():
        with PILImage.open(path) as picture:
            assert min(picture.size) > 100
    queries, gallery, ranking, _ = drawn["retrieval_grid"]
    assert [query.id for query in queries] == ranking.query_ids == ["q0", "q1", "q3"]  # evenly spaced
    assert all(len(ids) == GALLERY_SIZE - 1 for ids in ranking.gallery_ids)  # all but the reference
    (maps,) = drawn["concept_attention_figure"][0].values()
    assert [m.phrases for m in maps] == [["the red"], [], ["the cir"]]
    assert maps[0].context[0].shape == (5, 5)
    assert list(drawn["training_curves"][0]) == ["with_cc (with CC loss)"]


def test_two_runs_side_by_side(run_folder, benchmark_folder, drawn, tmp_path):
    other = tmp_path / "plain"
    shutil.copytree(run_folder, other, ignore=shutil.ignore_patterns("figures"))
    (other / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 1, "loss": 2.0}]}))
    arguments = ["--run", run_folder, "--compare", str(other), "--data-root", benchmark_folder, "--split", "test"]
    visualize.main([*arguments, "--output", str(tmp_path / "pictures")])
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == FIGURES
    names = ["with_cc (with CC loss)", "plain"]
    assert list(drawn["training_curves"][0]) == list(drawn["concept_attention_figure"][0]) == names
    assert len(drawn["retrieval_grid"][0]) == NUM_QUERIES  # fewer than asked for


def test_a_model_without_maps_of_phrases_gets_the_other_pictures(
    run_folder, clip_folder, benchmark_folder, drawn, tmp_path, caplog
):
    other = tmp_path / "instructcir"
    InstructCIRModel.from_clip_pretrained(clip_folder).save_pretrained(other)
    InstructCIRProcessor.from_pretrained(clip_folder).save_pretrained(other)
    shutil.copy(f"{run_folder}/trainer_state.json", other)
    with caplog.at_level("INFO"):
        visualize.main(["--run", str(other), "--data-root", benchmark_folder, "--queries", "2"])
    assert sorted(path.name for path in (other / "figures").iterdir()) == ["retrieval_grid.png", "training_curves.png"]
    assert "no attention of noun phrases to draw" in caplog.text
    both = ["--run", str(other), "--compare", run_folder, "--data-root", benchmark_folder, "--queries", "2"]
    visualize.main([*both, "--output", str(tmp_path / "pictures")])
    assert list(drawn["concept_attention_figure"][0]) == ["with_cc (with CC loss)"]
    assert len(drawn["retrieval_grid"][0]) == 2


def test_each_part_of_a_benchmark_is_drawn(run_folder, benchmark_folder, tmp_path, monkeypatch):
    benchmark, loaded = load_published(benchmark_folder, "test"), []
    parts = [replace(benchmark, part=name) for name in ("dress", "shirt")]
    monkeypatch.setattr("contextcir.cli.benchmark_arguments.load_benchmark", lambda *args, **kwargs: parts)
    load = loading.load_model
    monkeypatch.setattr(loading, "load_model", lambda *args: loaded.append(args) or load(*args))
    output = ["--output", str(tmp_path / "pictures"), "--queries", "1"]
    visualize.main(["--run", run_folder, "--benchmark", "fashioniq", "--data-root", benchmark_folder, *output])
    names = sorted(path.name for path in (tmp_path / "pictures").glob("*_*_*.png"))
    ends = ("dress", "shirt")
    assert names == [f"{what}_{end}.png" for what in ("concept_attention", "retrieval_grid") for end in ends]
    assert len(loaded) == 1


def test_runs_of_one_name_are_told_apart_by_their_paths(run_folder, benchmark_folder, drawn, tmp_path):
    other = str(tmp_path / "with_cc")
    shutil.copytree(run_folder, other)
    output = ["--output", str(tmp_path / "pictures"), "--queries", "1"]
    visualize.main(["--run", run_folder, "--compare", other, "--data-root", benchmark_folder, *output])
    assert list(drawn["training_curves"][0]) == [run_folder, other]


def measured(run: str, retriever: str, protocol_id: str = "scenes/test") -> str:
    """A copy of a run's folder in which benchmark.py has left its record."""
    row = {"rank1": 50.0, "rank1_chance": 10.0, "above": 2.0, "above_chance": 1.0}
    group = {"num_queries": 2, "recall@1": 50.0, "interval": [0.0, 100.0], "kinds": {"target": row, "copy": row}}
    names = [retriever, "CLIP, image only", "CLIP, slerp"]
    results = [{"retriever": name, "profile": {"all": group, "edits:1": group}} for name in names]
    visualize.Path(run, "metrics.json").write_text(json.dumps({"protocol_id": protocol_id, "results": results}))
    return run


def test_an_error_profile_where_it_was_measured(run_folder, benchmark_folder, drawn, tmp_path):
    runs = [str(tmp_path / name) for name in ("mine", "other")]
    for run in runs:
        shutil.copytree(run_folder, run, ignore=shutil.ignore_patterns("figures"))
    output = ["--data-root", benchmark_folder, "--queries", "1", "--output", str(tmp_path / "pictures")]
    measured(runs[0], "mine")
    visualize.main(["--run", runs[0], "--compare", runs[1], *output])  # the other one was not measured
    names = ["mine (with CC loss)", "CLIP, image only", "other (with CC loss)"]
    assert list(drawn["profile_figure"][0]) == names[:2]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted([*FIGURES, "error_profile.png"])
    measured(runs[1], "mine")  # measured under the same --retriever, as a run that was trained again is
    visualize.main(["--run", runs[0], "--compare", runs[1], *output])
    assert list(drawn["profile_figure"][0]) == names
    measured(runs[1], "other", "scenes/validation")
    with pytest.raises(ValueError, match="do not compare: .*mine.* of scenes/test and .*other.* of scenes/validation"):
        visualize.main(["--run", runs[0], "--compare", runs[1], *output])


def traced(folder, queries) -> str:
    """The folder of a trace in which queries have come through all stages."""
    trace = Trace(folder / "trace.jsonl")
    for query in queries:
        stages = {stage: ["g5", "g6"] for stage in ("retrieved", "verified", "evaluated")}
        said = {
            "propositions": [{"question": "Is it?", "expected": "yes"}],
            "answers": {"g5": ["yes"]},
            "verdicts": {},
            "depths": {"verified": 1, "evaluated": 0},
        }
        trace.write({"key": query_key(query), "query": query.id, "scores": None, **stages, **said, "calls": []})
    return str(folder)


def test_funnels_of_a_trace(benchmark_folder, tmp_path):
    queries = load_published(benchmark_folder, "test").queries
    folder = traced(tmp_path, queries[1:4])
    trace = Trace(tmp_path / "trace.jsonl")
    trace.write({"key": query_key(queries[0]), "query": "q0", "descriptions": ["not retrieved yet"], "calls": []})
    options = ["--data-root", benchmark_folder, "--queries", "2"]
    visualize.main(["--trace", folder, *options])
    pictures = sorted((tmp_path / "figures").iterdir())
    assert [path.name for path in pictures] == ["funnel_q1.png", "funnel_q2.png"]  # evenly spaced over the three
    for path in pictures:
        with PILImage.open(path) as picture:
            assert min(picture.size) > 400


def test_a_trace_of_other_queries_is_refused(benchmark_folder, tmp_path):
    (query, *_) = load_published(benchmark_folder, "test").queries
    folder = traced(tmp_path, [replace(query, modification_text="another text")])
    with pytest.raises(ValueError, match="No query of .* has come through all stages in .*trace.jsonl"):
        visualize.main(["--trace", folder, "--data-root", benchmark_folder])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--run", "{empty}"], "trainer_state.json"),
        (["--run", "{run}", "--compare", "{empty}"], "trainer_state.json"),
        (["--run", "{run}", "--split", "validation"], "validation"),
        (["--run", "{run}", "--queries", "0"], "queries must be at least 1, got 0"),
        (["--run", "{run}", "--benchmark", "cire"], "There is no benchmark 'cire'. Choose one of cirr, circo"),
        ([], "Give either --run"),
        (["--run", "{run}", "--trace", "{empty}"], "Give either --run"),
        (["--trace", "{empty}", "--compare", "{run}"], "Give either --run"),
        (["--trace", "{empty}"], "There is no .*trace.jsonl"),
    ],
)
def test_what_is_wrong_is_named(arguments, message, run_folder, benchmark_folder, tmp_path):
    arguments = [argument.format(empty=tmp_path, run=run_folder) for argument in arguments]
    with pytest.raises(ValueError, match=message):
        visualize.main([*arguments, "--data-root", benchmark_folder, "--output", str(tmp_path)])
