"""Attention against masks: closed forms, perfect and uniform maps, and the maps of a model."""

import random

import numpy as np
import pytest

from contextcir import scenes
from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.scenes import GroundedPhrase, GroundTruth
from contextcir.evaluation import grounding
from contextcir.evaluation.attention import attention_maps
from contextcir.evaluation.grounding import choose, coverage, format_grounding, ground, kind_of, measure_grounding
from contextcir.retrieval.base import Gallery, Query
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor

MASK = np.zeros((8, 8), dtype=bool)
MASK[:4, :2] = True  # half of the upper left of four patches: an eighth of the image


def testcoverage_keeps_the_area():
    assert coverage(MASK, (2, 2)).tolist() == [[0.5, 0], [0, 0]]
    generator = np.random.default_rng(0)
    for shape in ((2, 4), (3, 3), (5, 7)):  # the latter two do not divide 8
        mask = generator.random((8, 8)) < 0.3
        covered = coverage(mask, shape)
        assert covered.shape == shape
        assert covered.mean() == pytest.approx(mask.mean(), abs=1e-6)


def test_closed_forms():
    uniform = np.full((2, 2), 0.25)
    assert ground(uniform, MASK) == {"pointing": 12.5, "mass": 12.5, "chance": 12.5, "ceiling": 50}
    right = np.array([[1.0, 0], [0, 0]])
    assert ground(right, MASK) == {"pointing": 50, "mass": 50, "chance": 12.5, "ceiling": 50}
    assert ground(right[::-1], MASK) == {"pointing": 0, "mass": 0, "chance": 12.5, "ceiling": 50}
    found = ground(np.array([[0.3, 0.3], [0.2, 0.2]]), MASK)  # two patches share the maximum
    assert found["pointing"] == 25 and found["mass"] == pytest.approx(15)
    assert ground(7 * right, MASK) == ground(right, MASK)
    assert ground(uniform, ~np.zeros_like(MASK))["pointing"] == 100


@pytest.mark.parametrize(
    "attention, mask, message",
    [
        (np.zeros((2, 2)), MASK, " 0.0 .* 0.0"),
        (np.full((2, 2), np.nan), MASK, " nan .* nan"),
        (np.array([[2.0, -1], [0, 0]]), MASK, " -1.0 .* 2.0"),
        (np.ones((2, 2)), np.zeros_like(MASK), "mask"),
    ],
)
def test_bad_maps_and_empty_masks_are_refused(attention, mask, message):
    with pytest.raises(ValueError, match=message):
        ground(attention, mask)


def thing(row: int, column: int) -> scenes.Thing:
    return scenes.Thing((row, column), "circle", "red", "small", "plain")


THINGS = thing(0, 0), thing(1, 1), thing(2, 2)
SCENE = scenes.Scene("plain", THINGS)


def test_kinds_of_phrases():
    kinds = {
        "thing": scenes.Denotation(things=THINGS[:1]),
        "things": scenes.Denotation(things=THINGS[:2]),
        "place": scenes.Denotation(cells=((0, 0),)),
        "background": scenes.Denotation(background=True),
        None: scenes.Denotation(),
    }
    assert [kind_of(denotes) for denotes in kinds.values()] == list(kinds)


def test_choice_sums_the_attention_of_each_cell():
    named = scenes.Denotation(things=THINGS[1:2])
    attention = np.zeros((6, 6))
    attention[2:4, 2:4] = 0.1  # 0.4 in the middle cell, in weak patches
    attention[0, 0] = 0.3  # the maximum, on another thing
    attention[0, 5] = 5.0  # no thing is there
    assert choose(attention, SCENE, named) == {"choice": 100, "choice_chance": pytest.approx(100 / 3)}
    assert choose(attention[::-1, ::-1], SCENE, named)["choice"] == 100
    attention[0, 0] = 0.5
    assert choose(attention, SCENE, named)["choice"] == 0
    attention[0, 0] = 0.4
    assert choose(attention, SCENE, named)["choice"] == 50  # two cells have as much
    for shape in ((6, 6), (7, 7), (3, 3), (14, 14)):
        assert choose(np.ones(shape), SCENE, named)["choice"] == pytest.approx(100 / 3)
    alone = scenes.Scene("plain", THINGS[1:2])
    assert choose(attention, alone, named) == {"choice": 100, "choice_chance": 100}
    for other in (scenes.Denotation(), scenes.Denotation(things=THINGS[:2]), scenes.Denotation(things=(thing(0, 1),))):
        with pytest.raises(ValueError, match="exactly one"):
            choose(attention, SCENE, other)


@pytest.fixture(scope="module")
def world():
    """A block of scenes as a benchmark, and its truth."""
    composed = scenes.compose("validation", 24, None, 0)
    pictures = dict(composed.pictures())
    images = [scenes.render(picture.scene, picture.nuisance) for picture in pictures.values()]
    queries, truths = [], {}
    for question in composed.questions:
        queries.append(Query(question.id, question.query.text, reference_id=question.reference_id))
        picture = pictures[question.reference_id]
        phrases = [
            GroundedPhrase(p.text, p.start, p.end, scenes.role(question.query, p.denotes), p.denotes)
            for p in question.query.noun_phrases
        ]
        truths[question.id] = GroundTruth(picture.scene, picture.nuisance, phrases)
    part = Benchmark("scenes", "scenes", Gallery(list(pictures), images), queries, {}, True)
    return part, truths


def test_each_map_is_compared_with_its_own_mask(world, monkeypatch):
    part, truths = world
    expected = [(query, p) for query in part.queries for p in truths[query.id].phrases if p.role != "new"]
    waiting, batches = iter(expected), []

    def perfect(model, processor, images, texts, spans):
        maps = []
        for image, text, span in zip(images, texts, spans, strict=True):
            query, phrase = next(waiting)
            assert np.array_equal(image, part.gallery.reference_image(query)) and text == query.modification_text
            assert span == {"text": phrase.text, "start": phrase.start, "end": phrase.end}
            truth = truths[query.id]
            maps.append(coverage(scenes.denoted_mask(truth.scene, truth.nuisance, phrase.denotes), (6, 6)))
        batches.append(len(maps))
        return maps, None

    monkeypatch.setattr(grounding, "attention_maps", perfect)
    found = measure_grounding(None, None, part, truths, batch_size=10)
    assert max(batches) == 10
    for row in found.values():
        assert row["pointing"] == pytest.approx(row["ceiling"])
        assert row["chance"] < row["mass"] <= row["ceiling"] + 1e-9
    roles = [phrase.role for _, phrase in expected]
    kinds = [kind_of(phrase.denotes) for _, phrase in expected]
    assert found["all"]["num_phrases"] == len(roles) == sum(batches)
    assert set(found) == {"all", *roles, *kinds} and list(found)[:2] == ["all", "thing"]
    for group in {*roles, *kinds} - {"background"}:  # the role and the kind of the same phrases
        assert found[group]["num_phrases"] == roles.count(group) + kinds.count(group)
    assert found["background"]["num_phrases"] == kinds.count("background") == roles.count("background")
    assert found["thing"]["choice"] == found["all"]["choice"] == 100 and 0 < found["thing"]["choice_chance"] < 100
    assert "choice" not in found["place"] and "choice" not in found["background"]
    text = format_grounding("runs/mine", found)
    assert text.splitlines()[2].split()[:2] == ["phrases", "pointing"]
    assert text.splitlines()[3].split()[:2] == ["all", str(len(roles))]


def test_a_uniform_map_scores_chance_and_missing_maps_are_left_out(world, monkeypatch):
    part, truths = world
    uniform = np.full((6, 6), 1 / 36)

    def maps(model, processor, images, texts, spans):
        return [uniform if span["start"] else None for span in spans], None

    monkeypatch.setattr(grounding, "attention_maps", maps)
    found = measure_grounding(None, None, part, truths)
    assert found["all"]["pointing"] == found["all"]["mass"] == pytest.approx(found["all"]["chance"])
    assert found["thing"]["choice"] == pytest.approx(found["thing"]["choice_chance"])
    assert found["all"]["num_phrases"] == sum(
        p.role != "new" and p.start > 0 for truth in truths.values() for p in truth.phrases
    )


def test_maps_of_a_model_do_not_depend_on_the_batch(run, world):
    part, truths = world
    model, processor = ContextCIRModel.from_pretrained(run), ContextCIRProcessor.from_pretrained(run)
    some = random.Random(0).sample([(q, p) for q in part.queries for p in truths[q.id].phrases], 5)
    images = [part.gallery.reference_image(query) for query, _ in some]
    texts = [query.modification_text for query, _ in some]
    spans = [{"text": p.text, "start": p.start, "end": p.end} for _, p in some]
    together = attention_maps(model, processor, images, texts, spans)
    for place in range(5):
        alone = attention_maps(model, processor, *([items[place]] for items in (images, texts, spans)))
        for kind in (0, 1):
            assert together[kind][place].sum() == pytest.approx(1, abs=1e-5)
            assert np.allclose(together[kind][place], alone[kind][0], atol=1e-5)
    assert attention_maps(model, processor, [], [], []) == ([], [])
    found = measure_grounding(model, processor, part, truths, batch_size=7, random_maps=1)
    assert 0 < found["all"]["mass"] < 100
    null = measure_grounding(model.with_random_attention(0), processor, part, truths, random_maps=0)
    for kind in ("thing", "place", "background"):
        for name in ("pointing", "mass", *(["choice"] if kind == "thing" else [])):
            assert found[kind][f"random_{name}"] == pytest.approx(null[kind][name], abs=1e-3)
            assert f"random_{name}" not in null[kind]
