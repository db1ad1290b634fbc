"""From a run or a trace, and a benchmark, to figures."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from contextcir import scenes, visualization  # noqa: E402
from contextcir.benchmarks.base import Benchmark  # noqa: E402
from contextcir.benchmarks.published import load_published  # noqa: E402
from contextcir.benchmarks.scenes import GroundedPhrase, GroundTruth  # noqa: E402
from contextcir.cli import loading, visualize  # noqa: E402
from contextcir.evaluation.grounding import kind_of  # noqa: E402
from contextcir.retrieval.base import Gallery, Query  # noqa: E402
from contextcir.retrieval.imagescope.trace import Trace, query_key  # noqa: E402
from modeling_contextcir import (  # noqa: E402
    ContextCIRModel,
    ContextCIRProcessor,
    InstructCIRModel,
    InstructCIRProcessor,
)
from tests.tiny_triplets import write_benchmark  # noqa: E402

FIGURES = [
    "concept_attention.png",
    "embedding_map.png",
    "retrieval_grid.png",
    "score_margins.png",
    "text_alone.png",
    "training_curves.png",
]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> str:
    """Five queries, and a gallery of ten images: no more than a row holds."""
    return write_benchmark(tmp_path_factory.mktemp("benchmark"), "test")


@pytest.fixture
def runs(tmp_path, run):
    """Make copies of a trained run: the parts of its loss as a log, and the folder by its name."""

    def copy(name: str, *parts: str) -> str:
        folder = tmp_path / name
        shutil.copytree(run, folder)
        history = [{"step": step, "loss": 1 / step} | dict.fromkeys(parts, 0.1) for step in (1, 2, 3)]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        return str(folder)

    return copy


@pytest.fixture(autouse=True)
def extractor(monkeypatch):
    """Noun phrases without spaCy: "the" and the next three letters."""

    class FakeExtractor:
        def extract(self, texts):
            found = [[re.search("the ...", text)] for text in texts]
            return [[{"text": m[0], "start": m.start(), "end": m.end()} for m in some if m] for some in found]

    monkeypatch.setattr("contextcir.phrases.extractor.NounPhraseExtractor", FakeExtractor)


@pytest.fixture
def drawn(monkeypatch) -> dict:
    """Name of a drawing function -> its arguments."""
    calls = {}

    def record(name, draw):
        monkeypatch.setattr(visualization, name, lambda *args: calls.update({name: args}) or draw(*args))

    for name in (
        "retrieval_grid",
        "concept_attention_figure",
        "training_curves",
        "profile_figure",
        "attention_steps_figure",
    ):
        record(name, getattr(visualization, name))
    return calls


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_figures_of_a_run(runs, data_root, drawn, tmp_path):
    visualize.main(["--run", runs("mine", "loss_concept_consistency"), "--data-root", data_root, "--queries", "3"])
    assert names_in(tmp_path / "mine" / "figures") == FIGURES
    for path in (tmp_path / "mine" / "figures").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 100
    queries, gallery, rankings, _ = drawn["retrieval_grid"]
    (ranking,) = rankings.values()
    assert [query.id for query in queries] == ranking.query_ids == ["t0", "t1", "t3"]  # evenly spaced
    assert all(len(ids) == len(gallery) - 1 for ids in ranking.gallery_ids)  # without the reference
    (maps,) = drawn["concept_attention_figure"][0].values()
    assert [m.phrases for m in maps] == [["the red"], ["the lef"], ["the two"]]
    assert maps[0].context[0].shape == (5, 5)
    assert list(drawn["training_curves"][0]) == ["mine (with CC loss)"]


def test_two_runs(runs, data_root, drawn, tmp_path):
    one, other = runs("one", "loss_concept_consistency"), runs("other")
    output = ["--data-root", data_root, "--split", "test", "--output", str(tmp_path / "pictures")]
    visualize.main(["--run", one, "--compare", other, *output])
    assert names_in(tmp_path / "pictures") == FIGURES
    names = ["one (with CC loss)", "other"]
    assert list(drawn["training_curves"][0]) == list(drawn["concept_attention_figure"][0]) == names
    assert list(drawn["retrieval_grid"][2]) == names
    assert len(drawn["retrieval_grid"][0]) == 5  # fewer than requested
    assert [maps.phrases for maps in drawn["concept_attention_figure"][0]["other"]][2] == []


def test_more_runs_than_have_colours(runs, data_root):
    one = runs("one")
    with pytest.raises(ValueError, match="5 runs.*at most 4"):
        visualize.main(["--run", one, "--compare", *[one] * 5, "--data-root", data_root])


def test_checkpoints_show_attention_over_training(runs, data_root, drawn, tmp_path, monkeypatch):
    mine = visualize.Path(runs("mine"))
    for step in (1, 2, 10, 300):
        shutil.copytree(mine, mine / f"checkpoint-{step}", ignore=shutil.ignore_patterns("checkpoint-*"))
    problems = {str(mine / "checkpoint-10"): "half-written"}
    monkeypatch.setattr("contextcir.training.checkpoints.checkpoint_problem", problems.get)
    visualize.main(["--run", str(mine), "--data-root", data_root, "--queries", "3"])
    assert names_in(mine / "figures") == ["attention_over_training.png", *FIGURES]
    (steps,) = drawn["attention_steps_figure"]
    assert list(steps) == [1, 2, 300]
    assert [maps.phrases for maps in steps[1]] == [["the red"], ["the lef"], ["the two"]]


def test_columns_are_spread_over_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("contextcir.training.checkpoints.checkpoint_problem", lambda path: None)
    for step in range(10, 170, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-tmp").mkdir()
    assert list(visualize.saved_steps(str(tmp_path))) == [10, 30, 50, 70, 100, 120, 140, 160]


def test_runs_with_the_same_name(runs, data_root, drawn, tmp_path):
    one, other = runs("one"), runs("other/one")
    visualize.main(["--run", one, "--compare", other, "--data-root", data_root, "--queries", "1"])
    assert list(drawn["training_curves"][0]) == [one, other]


def test_a_model_without_maps_of_phrases(runs, clip_folder, data_root, drawn, tmp_path):
    other = runs("instructcir")
    InstructCIRModel.from_clip_pretrained(clip_folder).save_pretrained(other)
    InstructCIRProcessor.from_pretrained(clip_folder).save_pretrained(other)
    options = ["--data-root", data_root, "--queries", "2"]
    visualize.main(["--run", other, *options])
    assert names_in(tmp_path / "instructcir" / "figures") == FIGURES[1:]
    visualize.main(["--run", other, "--compare", runs("mine"), *options])
    assert list(drawn["concept_attention_figure"][0]) == ["mine"]
    assert len(drawn["retrieval_grid"][0]) == 2


def test_what_phrases_denote_is_drawn_where_it_is_known(run, drawn):
    composed = scenes.compose("validation", 24, None, 0)
    (question,) = composed.questions[:1]
    picture = dict(composed.pictures())[question.reference_id]
    queries = [Query(question.id, question.query.text, reference_id=question.reference_id)]
    gallery = Gallery([question.reference_id], [scenes.render(picture.scene, picture.nuisance)])
    phrases = [GroundedPhrase(p.text, p.start, p.end, "kept", p.denotes) for p in question.query.noun_phrases]
    truth = {question.id: GroundTruth(picture.scene, picture.nuisance, phrases)}
    part = Benchmark("scenes", "scenes", gallery, queries, {}, True, ground_truth=lambda: truth)
    found = [{"text": p.text, "start": p.start, "end": p.end} for p in phrases]
    model = ContextCIRModel.from_pretrained(run), ContextCIRProcessor.from_pretrained(run)
    for known in (part, replace(part, ground_truth=None)):
        visualize.draw_maps(known, queries, {"mine": model}, [found])
        (maps,) = drawn["concept_attention_figure"][0]["mine"]
        assert maps.phrases == [phrase.text for phrase in phrases]
        with_truth = [truth is not None for truth in maps.truths]
        assert with_truth == [known is part and kind_of(phrase.denotes) is not None for phrase in phrases]


def test_each_part_of_a_benchmark_is_drawn(runs, data_root, tmp_path, monkeypatch):
    benchmark, loaded = load_published(data_root, "test"), []
    parts = [replace(benchmark, part=name) for name in ("dress", "shirt")]
    monkeypatch.setattr("contextcir.cli.benchmark_arguments.load_benchmark", lambda *args, **kwargs: parts)
    load = loading.load_model
    monkeypatch.setattr(loading, "load_model", lambda *args: loaded.append(args) or load(*args))
    visualize.main(["--run", runs("mine"), "--benchmark", "fashioniq", "--data-root", data_root, "--queries", "1"])
    names = [f"{name[:-4]}_{part}.png" for name in FIGURES[:-1] for part in ("dress", "shirt")]
    assert names_in(tmp_path / "mine" / "figures") == [*names, "training_curves.png"]
    assert len(loaded) == 1


def measure(run: str, retriever: str, protocol_id: str = "scenes/test") -> None:
    """Write the record of `contextcir benchmark` into the folder of a run."""
    row = {"rank1": 50.0, "rank1_chance": 10.0, "above": 2.0, "above_chance": 1.0}
    group = {"num_queries": 2, "recall@1": 50.0, "interval": [0.0, 100.0], "kinds": {"target": row, "copy": row}}
    names = [retriever, "CLIP, image only", "CLIP, slerp"]
    results = [{"retriever": name, "profile": {"all": group, "edits:1": group}} for name in names]
    visualize.Path(run, "metrics.json").write_text(json.dumps({"protocol_id": protocol_id, "results": results}))


def test_error_profiles_of_measured_runs(runs, data_root, drawn, tmp_path):
    one, other = runs("one"), runs("other")
    output = ["--data-root", data_root, "--queries", "1", "--output", str(tmp_path / "pictures")]
    arguments = ["--run", one, "--compare", other, *output]
    measure(one, "one")
    visualize.main(arguments)
    assert list(drawn["profile_figure"][0]) == ["one", "CLIP, image only"]
    assert names_in(tmp_path / "pictures") == sorted([*FIGURES, "error_profile.png"])
    measure(other, "one")  # under the same name, as a run that was trained again
    visualize.main(arguments)
    assert list(drawn["profile_figure"][0]) == ["one", "CLIP, image only", "other"]
    measure(other, "other", "scenes/validation")
    with pytest.raises(ValueError, match="one.metrics.json.*scenes/test.*other.metrics.json.*scenes/validation"):
        visualize.main(arguments)


def write_trace(folder, queries) -> None:
    """Write a trace in which queries have come through all stages."""
    stages = {stage: ["g1", "g2"] for stage in ("retrieved", "verified", "evaluated")}
    answers = {"propositions": [{"question": "Is it?", "expected": "yes"}], "answers": {"g1": ["yes"]}, "verdicts": {}}
    rest = {"depths": {"verified": 1, "evaluated": 0}, "scores": None, "calls": []}
    for query in queries:
        record = {"key": query_key(query), "query": query.id, **stages, **answers, **rest}
        Trace(folder / "trace.jsonl").write(record)


def test_funnels_of_a_trace(data_root, tmp_path):
    first, *others = load_published(data_root, "test").queries[:4]
    write_trace(tmp_path, others)
    unfinished = {"key": query_key(first), "query": first.id, "descriptions": ["a"], "calls": []}
    Trace(tmp_path / "trace.jsonl").write(unfinished)
    visualize.main(["--trace", str(tmp_path), "--data-root", data_root, "--queries", "2"])
    assert names_in(tmp_path / "figures") == ["funnel_t1.png", "funnel_t2.png"]  # evenly spaced over three
    for path in (tmp_path / "figures").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 400


def test_a_trace_of_other_queries(data_root, tmp_path):
    (query, *_) = load_published(data_root, "test").queries
    write_trace(tmp_path, [replace(query, modification_text="another text")])
    with pytest.raises(ValueError, match="trace.jsonl"):
        visualize.main(["--trace", str(tmp_path), "--data-root", data_root])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--run", "{empty}"], "trainer_state.json"),
        (["--run", "{run}", "--compare", "{empty}"], "empty.trainer_state.json"),
        (["--run", "{run}", "--split", "validation"], "validation"),
        (["--run", "{run}", "--queries", "0"], "queries.*1.*0"),
        (["--run", "{run}", "--benchmark", "cire"], "'cire'.*cirr, circo"),
        (["--run", "{run}", "--benchmark", "all"], "benchmark"),
        ([], "--run.*--compare.*--trace"),
        (["--run", "{run}", "--trace", "{empty}"], "--run.*--compare.*--trace"),
        (["--trace", "{empty}", "--compare", "{run}"], "--run.*--compare.*--trace"),
        (["--trace", "{empty}"], "empty.trace.jsonl"),
    ],
)
def test_errors(arguments, message, runs, data_root, tmp_path):
    folders = {"empty": tmp_path / "empty", "run": runs("mine")}
    arguments = [argument.format(**folders) for argument in arguments]
    with pytest.raises(ValueError, match=message):
        visualize.main([*arguments, "--data-root", data_root, "--output", str(tmp_path)])
