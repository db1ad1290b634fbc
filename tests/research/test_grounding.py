"""The experiment on grounding: closed forms of its losses, its data, and that nothing is trained twice."""

import json
import math

import datasets
import numpy as np
import pytest
import torch

from contextcir import scenes
from contextcir.evaluation.grounding import coverage
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from research.grounding import __main__ as experiment
from research.grounding import data, measuring, page, plan, teacher, training
from research.grounding.losses import mask_loss, phrase_contrast
from research.grounding.training import CLIP, MapLosses, context_scores, isolated_maps, phrase_scores, run_step


def test_true_masks_are_the_least_of_their_loss():
    covered = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 0.2], [0, 0, 0, 0]])  # the last denotes nothing
    true = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1.0], [1.0, 0, 0, 0]])
    assert mask_loss(true, covered, 2).item() == pytest.approx(0, abs=1e-5)
    uniform = torch.full((3, 4), 0.25)
    assert mask_loss(uniform, covered, 2).item() == pytest.approx((math.log(2) + math.log(4)) / 2, abs=1e-4)
    assert mask_loss(uniform[2:], covered[2:], 2).item() == 0


def test_phrase_contrast_from_closed_forms():
    index = torch.arange(4), torch.arange(4, 8)
    sample, alone = torch.tensor([0, 2, 2]), torch.arange(4)
    equal = torch.zeros(3, 8, 5)
    assert phrase_contrast(equal, sample, *index, alone).item() == pytest.approx(math.log(4))
    assert phrase_contrast(equal, sample, *index, torch.tensor([0, 0, 1, 2])).item() == pytest.approx(
        (math.log(3) + 2 * math.log(4)) / 3  # triplets of one family are no negatives
    )
    found = equal.clone()
    found[0, 4, 3] = found[1, 2, 0] = found[2, 6, 1] = 50  # one patch of the target or of the reference is enough
    assert phrase_contrast(found, sample, *index, alone).item() == pytest.approx(0, abs=1e-6)


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


@pytest.fixture(scope="module")
def collator(processor):
    return training.TruthCollator(processor)


def build(**fields):
    torch.manual_seed(0)
    return ContextCIRModel.from_clip_pretrained(CLIP, fusion_num_layers=1, **fields)


def batch_of(rows, collator, model):
    batch = collator(list(rows.select(range(8))))
    batch["encoded_images"] = model.encode_images(batch.pop("pixel_values"))
    return batch


DIRECTIONS = ("text_to_image", "image_to_text")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_step_is_that_of_the_model(rows, collator, direction):
    model = build(fusion_direction=direction, pool_image_tokens=True).eval()
    batch = batch_of(rows, collator, model)
    names = ("triplet_ids", *training.TRUTH, "target_keys", "reference_keys")
    inputs = {name: value for name, value in batch.items() if name not in names and not name.startswith("num_")}
    expected = model(**inputs)
    for weights in (MapLosses(), MapLosses(masks=1.0), MapLosses(cc=1.0)):
        found, _ = run_step(model, batch, weights)
        for name in ("query_embeds", "target_embeds", "reference_embeds", "logit_scale"):
            torch.testing.assert_close(found[name], expected[name])
        maps = {"context_attentions": weights.reads_maps, "isolated_attentions": bool(weights.cc)}
        for name, given in maps.items():
            assert (name in found) == given
            if given:
                torch.testing.assert_close(found[name], expected[name])


def test_scores_are_what_becomes_attention(rows, collator):
    """With one head, the attention of a token is the softmax of its scores."""
    model = build(fusion_num_heads=1).eval()
    batch = batch_of(rows, collator, model)
    whole, prepared = run_step(model, batch, MapLosses(cc=1.0))
    tokens = batch["phrase_token_mask"].sum(1)
    one = (tokens == 1).nonzero()[:, 0]  # the mean over the tokens of longer phrases is another map
    assert len(one)
    place = batch["reference_index"][batch["phrase_sample"][one]]
    own = torch.arange(len(one)), place
    isolated = phrase_scores(model, prepared, batch["phrase_input_ids"][one], False)[own].softmax(-1)
    torch.testing.assert_close(isolated, whole.isolated_attentions[one], atol=1e-5, rtol=1e-4)
    context = context_scores(model, prepared, batch, one, True)[own].softmax(-1)
    torch.testing.assert_close(context, whole.context_attentions[one], atol=1e-5, rtol=1e-4)
    other = build(fusion_num_heads=1, fusion_direction="image_to_text").eval()
    prepared = run_step(other, batch, MapLosses())[1]
    assert phrase_scores(other, prepared, batch["phrase_input_ids"], True).shape[2] == 36


def test_attention_may_start_from_a_teacher(rows, collator):
    model = build(fusion_num_heads=16).eval()
    batch = batch_of(rows, collator, model)
    torch.manual_seed(0)
    found, ids = teacher.Teacher(model), batch["phrase_input_ids"]
    teacher.start_from(found, model)
    prepared = model.fusion.prepare_images(batch["encoded_images"])
    scores = phrase_scores(model, prepared, ids, True)
    torch.testing.assert_close(scores, found.scores(found.embed(ids), batch["encoded_images"]), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="image_to_text"):
        teacher.start_from(found, build(fusion_direction="image_to_text"))


def test_a_teacher_trusts_phrases_that_the_reference_explains(rows, collator):
    model = build().eval()
    batch = batch_of(rows, collator, model)
    torch.manual_seed(0)
    found = teacher.Teacher(model)
    maps, trust = found.maps(batch)
    torch.testing.assert_close(maps.sum(1), torch.ones(len(maps)))
    assert (trust >= 0).all() and (trust <= 1).all() and trust.min() < 1
    same = batch | {"target_index": batch["reference_index"]}
    torch.testing.assert_close(found.maps(same)[1], torch.ones(len(maps)))
    ids = batch["phrase_input_ids"]
    scores = found.scores(found.embed(ids), batch["encoded_images"])
    place = batch["reference_index"][batch["phrase_sample"]]
    torch.testing.assert_close(scores[torch.arange(len(ids)), place].softmax(-1), maps)
    assert not any(weight.requires_grad for weight in found.text_model.parameters())


def test_a_phrase_learns_where_the_other_phrases_of_its_texts_look(monkeypatch):
    monkeypatch.setattr(teacher, "STEPS", 200)
    model = build().eval()
    found = teacher.Teacher(model)
    generator = torch.Generator().manual_seed(0)
    corners = {1: 5, 2: 30}  # the first token of a location phrase -> the patch where the other phrase looks

    def collate(rows):
        """Return one batch of texts with a thing and a location each, as the teacher would see it."""
        places = torch.randint(1, 3, (32,), generator=generator)
        ids = torch.full((64, 4), found.end)
        ids[:, 0], ids[0::2, 1], ids[1::2, 1] = model.config.empty_text_ids[0], 9, places
        scores = torch.zeros(64, 36)
        scores[torch.arange(0, 64, 2), [corners[int(place)] for place in places]] = 8.0
        return {"phrase_input_ids": ids, "phrase_sample": torch.arange(32).repeat_interleave(2), "scores": scores}

    monkeypatch.setattr(found, "both_scores", lambda batch: [batch["scores"], batch["scores"]], raising=False)
    teacher.learn_places(found, datasets.Dataset.from_dict({"row": range(64)}), collate, seed=0)
    batch = collate(None)
    where = found.place_scores(batch).softmax(-1)
    for first, patch in corners.items():
        named = (batch["phrase_input_ids"][:, 1] == first).nonzero()[:, 0]
        assert len(named) and (where[named].argmax(1) == patch).all()
        assert (where[named, patch] > 0.5).all()


def test_isolated_maps_are_those_of_the_model(rows, collator):
    model = build().eval()
    batch = batch_of(rows, collator, model)
    whole, _ = run_step(model, batch, MapLosses(cc=1.0))
    torch.testing.assert_close(isolated_maps(model, batch), whole.isolated_attentions)


EVERYTHING = {name: 1.0 for name, value in vars(MapLosses()).items() if isinstance(value, float)} | {
    "start": True,
    "places": True,
}


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["free", "everything"])
def test_every_loss_trains(rows, tmp_path, monkeypatch, options):
    monkeypatch.setattr(training, "RECIPE", training.RECIPE | {"per_device_train_batch_size": 8, "logging_steps": 1})
    monkeypatch.setattr(teacher, "STEPS", 2)
    fields = plan.MODELS["text+pooled"]
    losses = training.train(rows, fields, MapLosses(**options), seed=0, steps=2, output=tmp_path)
    parts = losses.keys() - {"loss", "loss_contrastive"}
    names = {"cc": "concept_consistency"}
    assert parts == {f"loss_{names.get(name, name)}" for name in options if name not in ("start", "places")}
    assert losses["loss"] == pytest.approx(losses["loss_contrastive"] + sum(losses[part] for part in parts), rel=1e-4)
    trained = ContextCIRModel.from_pretrained(tmp_path)
    assert trained.config.pool_image_tokens and trained.config.fusion_num_heads == 16


def test_objectives_are_weights_of_losses():
    for name, options in plan.OBJECTIVES.items():
        assert MapLosses(**options).reads_phrases == (name != "free")


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
    assert (record["of"], record["seed"], record["weights"]["masks"]) == ("text-masks-1", 1, 1.0)
    assert "--objectives masks --seeds 1" in record["command"] and str(tmp_path) not in record["command"]
    experiment.main([*argv[2:], "--models", "image", "--objectives", "contrast"])  # not planned
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
    said = page.grounding_worth(runs, long)
    assert "recall@1 +50.0 points (95 % interval +50.0 to +50.0, 1 seeds)" in said
    assert "2.0 times as many steps, +0.0 points (95 % interval +0.0 to +0.0, 1 seeds)" in said


RUNS_OF_THE_README = (("image", "masks"), ("image", "teacher"))
