"""The experiment on grounding: its data, its trainings, and that nothing is trained twice."""

import json

import numpy as np
import pytest
import torch

from contextcir import scenes
from contextcir.evaluation.grounding import coverage
from contextcir.training.phrase_teacher import Learning
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from research.grounding import __main__ as experiment
from research.grounding import data, measuring, page, plan, training
from research.grounding.training import CLIP


def test_true_maps_are_spread_over_what_is_covered():
    assert training.true_maps([[0.5, 0.5, 0, 0], [0, 0, 0, 0.2], [0, 0, 0, 0]]) == [
        [0.5, 0.5, 0, 0],
        [0, 0, 0, 1.0],
        [0, 0, 0, 0],  # denotes nothing
    ]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The first triplets with their truth, read back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "_held_back", lambda: ())
        return data.triplets(24, tmp_path_factory.mktemp("data"))


def test_triplets_have_the_truth_of_their_phrases(rows):
    queries = [query for query, *_ in data.training_queries(24, 0, set())]
    for row, query in zip(rows, queries, strict=True):
        assert row["modification_text"] == query.text
        assert [phrase["text"] for phrase in row["noun_phrases"]] == [phrase.text for phrase in query.noun_phrases]
        for phrase, covered, kind in zip(query.noun_phrases, row["coverage"], row["kinds"], strict=True):
            denotes = phrase.denotes
            assert len(covered) == 36 and (sum(covered) > 0) == (kind != "new")
            if kind == "place":
                expected = coverage(scenes.cell_mask(denotes.cells[0]), (6, 6)).ravel()
                assert len(denotes.cells) > 1 or np.allclose(covered, expected)
    families = [row["family"] for row in rows]
    assert sorted(families) == families and 1 < len(set(families)) < 24


@pytest.fixture(scope="module")
def processor():
    return ContextCIRProcessor.from_pretrained(CLIP)


def build(**fields):
    torch.manual_seed(0)
    return ContextCIRModel.from_clip_pretrained(CLIP, fusion_num_layers=1, **fields)


@pytest.mark.parametrize("name", plan.OBJECTIVES)
def test_every_objective_trains(rows, tmp_path, monkeypatch, name):
    monkeypatch.setattr(training, "RECIPE", training.RECIPE | {"per_device_train_batch_size": 8, "logging_steps": 1})
    objective = training.Objective(**plan.OBJECTIVES[name])
    how = Learning(steps=2, batch_size=8)
    fields = plan.MODELS["text+pooled"]
    losses = training.train(rows, fields, objective, seed=0, steps=2, output=tmp_path, learning=how)
    weights = {"loss_concept_consistency": objective.cc_weight, "loss_grounding": float(objective.maps is not None)}
    assert losses.keys() - {"loss", "loss_contrastive"} == {part for part, weight in weights.items() if weight}
    expected = losses["loss_contrastive"] + sum(weight * losses.get(part, 0) for part, weight in weights.items())
    assert losses["loss"] == pytest.approx(expected, rel=1e-4)
    trained = ContextCIRModel.from_pretrained(tmp_path)
    assert trained.config.pool_image_tokens and trained.config.fusion_num_heads == 16


def test_runs_with_a_result_are_skipped_and_trained_models_measured(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(training, "train", lambda *args, output, **options: trained.append(output.name) or {"loss": 1})
    monkeypatch.setattr(data, "triplets", lambda *args: None)
    monkeypatch.setattr(measuring, "measure_run", lambda folder, kept: {"parts": {}, "of": folder.name})
    folders = {name: str(tmp_path / name) for name in ("data", "runs", "results")}
    argv = ["--models", "text", "--objectives", "free", "masks", "--seeds", "0", "1"]
    argv += [part for name, folder in folders.items() for part in (f"--{name}", folder)]
    experiment.main([*argv, "--train_only"])
    assert trained == ["text-free-0", "text-masks-0", "text-free-1", "text-masks-1"]
    assert not (tmp_path / "results").exists()
    experiment.main(argv)
    experiment.main(argv)
    assert len(trained) == 4
    record = json.loads((tmp_path / "results" / "text-masks-1.json").read_text())
    assert (record["of"], record["seed"], record["weights"]["maps"]) == ("text-masks-1", 1, "masks")
    assert "--objectives masks --seeds 1" in record["command"] and str(tmp_path) not in record["command"]
    experiment.main([*argv[2:], "--models", "image", "--objectives", "cc"])  # not planned
    assert len(trained) == 4
    with pytest.raises(ValueError, match="'other'"):
        experiment.main(["--objectives", "other"])


def test_a_run_is_measured_query_by_query(tmp_path, monkeypatch, processor):
    composed = scenes.compose("validation", 24, None, 5)
    monkeypatch.setattr(data, "QUERIES", 24)
    monkeypatch.setattr(measuring, "BENCHMARK_SEEDS", (5,))
    build().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = measuring.measure_run(tmp_path, tmp_path / "kept")
    for part in ("iid", "longer"):
        some = found["parts"][part]
        for name, value in some["metrics"].items():
            hits = some["hits"][name]
            assert len(hits) == 24 and 100 * hits.count("1") / 24 == pytest.approx(value)
    assert 0 <= found["redrawn"]["recall@1"] <= found["redrawn"]["recall@10"] <= 100
    assert {"thing", "place"} <= found["grounding"].keys()
    assert found["grounding"]["thing"]["random_choice"] > 0
    ids = [question.id for question in composed.questions]
    assert [query.id for query in data.benchmark("iid", 5, tmp_path / "kept").queries] == ids


def test_longer_compositions_are_composed_on_request():
    longer = scenes.compose("validation", 24, None, 0, splits=("longer",))
    assert {len(question.query.edits) for question in longer.questions} == {4, 5}
    with pytest.raises(ValueError, match="'longest'"):
        scenes.compose("validation", 24, None, 0, splits=("longest",))


def record_of(model: str, objective: str, seed: int, hits: str) -> dict:
    """Return a result with the same hits for every metric and part."""
    metrics = {name: 100 * hits.count("1") / len(hits) for name in page.METRICS}
    some = {"num_queries": len(hits), "metrics": metrics, "hits": dict.fromkeys(metrics, hits)}
    numbers = ("pointing", "mass", "choice", "chance", "choice_chance")
    kind = {"num_phrases": 7} | {f"{way}{name}": 40.0 for way in ("", "random_") for name in numbers}
    return {
        "model": model,
        "objective": objective,
        "seed": seed,
        "steps": 546,
        "triplets": 40000,
        "command": "python -m research.grounding",
        "commit": "0123456789",
        "cpu_seconds": 120.0,
        "parts": {"iid": some, "longer": some},
        "grounding": dict.fromkeys(("thing", "place", "background"), kind),
    }


def test_the_page_compares_runs_of_one_seed(tmp_path):
    half, all_of, none = "10" * 24, "11" * 24, "00" * 24
    for name in (
        ("text", "free", 0, half),
        ("text", "free", 1, none),
        ("text", "masks", 0, all_of),
        ("text", "masks", 2, none),  # without a run to compare it with
        ("text+pooled", "free", 0, none),
    ):
        data.write_json(tmp_path / f"{name[:3]}.json", record_of(*name))
    runs = page.read_runs(tmp_path)
    assert list(runs) == [("text", "free"), ("text", "masks"), ("text+pooled", "free")]
    found = page.grounding_runs(runs)
    assert "| text to image | free | 2 | 25.0 ± 35.4 |" in found and "48 of four or five edits" in found
    assert "Not run, with their seeds: text to image: free (2), true masks (1); text to image, image tokens" in found
    found = page.grounding_differences(runs)
    assert "| text to image: true masks less free | 1 | **+50.0 (+50.0 to +50.0)** |" in found
    assert "| text to image, image tokens pooled, free, less text to image, free | 1 | **-50.0 (" in found
    mixed = [
        (record_of("text", "masks", seed, hits), record_of("text", "free", seed, half))
        for seed, hits in ((0, all_of), (1, none))
    ]
    assert page.difference(mixed, "iid", "recall@1") == "+0.0 (+0.0 to +0.0)"  # a query counts by its mean over seeds
    blocks = [(record_of("text", "masks", 0, "1" * 24 + "0" * 24), record_of("text", "free", 0, half))]
    assert page.difference(blocks, "longer", "recall@1") == "+0.0 (-50.0 to +50.0)"  # two blocks, drawn as wholes
    assert "| random maps of the same models |  | 40 | 40 | 40 | 40 |" in page.grounding_kinds(runs)


def test_runs_are_listed_by_their_steps_and_gains_said_with_intervals():
    half, all_of = "10" * 24, "11" * 24
    short = {(model, "free"): [record_of(model, "free", 0, half)] for model in ("text", "text+pooled", "image")}
    long = {("text", "free"): [record_of("text", "free", 0, all_of) | {"steps": 2184, "redrawn": {"recall@1": 75.0}}]}
    rows = page.grounding_steps(short, long).splitlines()
    assert rows[2].startswith("| text to image | free | 546 | 1 | 50.0 |")
    assert rows[3].startswith("| text to image | free | 2,184 | 1 | 100.0 |") and "recall@1 is 75 to 75" in rows[5]
    runs = short | {(model, loss): [record_of(model, loss, 0, all_of)] for model, loss in RUNS_OF_THE_README}
    long |= {
        ("image", loss): [record_of("image", loss, 0, hits) | {"steps": 1092}]
        for loss, hits in (("free", half), ("teacher", "01" * 24))
    }
    said = page.grounding_steps(short, long)
    assert "image to text, 1,092 steps: teacher less free, 1 seeds, recall@1 +0.0 (+0.0 to +0.0)" in said
    more = {("image", "free"): [record_of("image", "free", 0, all_of) | {"steps": 1092, "triplets": 139776}]}
    said = page.grounding_triplets(long, more)
    assert "139,776 of them in 1,092 steps, each seen once, less 40,000 seen 3 times" in said
    assert "recall@1 **+50.0 (+50.0 to +50.0)**" in said
    said = page.grounding_worth(runs, long)
    assert "recall@1 +50.0 points (95 % interval +50.0 to +50.0, 1 seeds)" in said
    assert "chosen in 40 of 100 cases instead of 40 (1 seeds)" in page.grounding_choice(long)
    assert "2.0 times as many steps, +0.0 points (95 % interval +0.0 to +0.0, 1 seeds)" in said


RUNS_OF_THE_README = (("image", "masks"), ("image", "teacher"))
