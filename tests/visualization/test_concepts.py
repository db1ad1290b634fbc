"""Attention maps of noun phrases: their values, and how they are drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from contextcir import scenes
from contextcir.benchmarks.scenes import GroundedPhrase, GroundTruth
from contextcir.training.losses import concept_losses
from contextcir.visualization import ConceptMaps, concept_attention_figure, concept_maps, concepts
from contextcir.visualization.concepts import OUTLINE, TruePhrase, heat_overlay, outlined, total_variation
from contextcir.visualization.page import REFERENCE, TARGET
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from tests.visualization.layout import LONG_TEXTS, check_layout, texts

TEXT = "make the red square blue and remove the star"
UNIFORM, CORNER = np.full((2, 2), 0.25), np.array([[1.0, 0], [0, 0]])


@pytest.fixture(scope="module")
def model(clip_folder) -> ContextCIRModel:
    torch.manual_seed(0)
    return ContextCIRModel.from_clip_pretrained(clip_folder)


@pytest.fixture(scope="module")
def processor(clip_folder) -> ContextCIRProcessor:
    return ContextCIRProcessor.from_pretrained(clip_folder)


def span(phrase: str, text: str = TEXT) -> dict:
    start = text.index(phrase)
    return {"text": phrase, "start": start, "end": start + len(phrase)}


def test_maps_are_the_attention_of_the_model(model, processor, images):
    phrases = [span("the red square"), span("the star")]
    model.train()
    maps = concept_maps(model, processor, images[0], TEXT, phrases)
    assert model.training  # as before
    model.eval()
    inputs = processor(images=[images[0]], text=[TEXT], noun_phrases=[phrases])
    del inputs["num_truncated_texts"], inputs["num_dropped_phrases"]
    with torch.no_grad():
        expected = model.get_concept_attentions(**inputs)
    for grids, attentions in zip((maps.context, maps.isolated), expected, strict=True):
        for grid, attention in zip(grids, attentions, strict=True):
            assert grid.shape == (5, 5)
            assert grid.sum() == pytest.approx(1, abs=1e-5)
            np.testing.assert_allclose(grid.ravel(), attention.numpy(), atol=1e-6)  # row by row
    assert maps.phrases == ["the red square", "the star"]


def test_phrases_without_tokens_have_no_maps(model, processor, images):
    phrases = [span("red square"), {"text": "e re", "start": 7, "end": 11}, span("the star")]
    maps = concept_maps(model, processor, images[0], TEXT, phrases)
    whole = concept_maps(model, processor, images[0], TEXT, [phrases[0], phrases[2]])
    assert maps.context[1] is None and maps.isolated[1] is None
    for place, other in ((0, 0), (2, 1)):
        np.testing.assert_allclose(maps.context[place], whole.context[other], atol=1e-6)
        np.testing.assert_allclose(maps.isolated[place], whole.isolated[other], atol=1e-6)
    truncated = "a " * 100 + "red square"
    maps = concept_maps(model, processor, images[0], truncated, [span("red square", truncated)])
    assert maps.context == [None]
    maps = concept_maps(None, processor, images[0], TEXT, [])  # needs no model
    assert (maps.phrases, maps.context, maps.isolated) == ([], [], [])


def test_the_image_is_the_input_of_the_model(model, processor):
    wide = np.zeros((30, 90, 3), np.uint8)
    wide[:, 30:60] = np.random.default_rng(0).integers(0, 256, (30, 30, 3))
    seen = concept_maps(model, processor, Image.fromarray(wide), TEXT, [span("the star")]).image
    assert seen.size == (30, 30)
    assert np.abs(np.asarray(seen).astype(int) - wide[:, 30:60]).max() <= 1  # its middle


def test_total_variation():
    assert total_variation(UNIFORM, UNIFORM) == 0
    assert total_variation(CORNER, CORNER[::-1]) == 1
    assert total_variation(CORNER, UNIFORM) == pytest.approx(3 / 4)
    maps = torch.rand(2, 1, 6, generator=torch.manual_seed(0))
    maps /= maps.sum(dim=-1, keepdim=True)
    assert total_variation(*maps.numpy()) == pytest.approx(concept_losses(*maps).item())


def redness(image: Image.Image) -> np.ndarray:
    array = np.asarray(image).astype(int)
    return array[..., 0] - array[..., 2]


def test_the_overlay_is_red_at_high_attention():
    attention = np.full((3, 6), 0.01)
    attention[2, 1] = 0.5
    heat = redness(heat_overlay(Image.new("RGB", (60, 30), "white"), attention, attention.max()))
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert (y // 10, x // 10) == (2, 1)
    assert heat[25, 15] > 3 * heat[5, 45]


def test_overlays_of_one_scale_can_be_compared():
    image, weak, strong = Image.new("RGB", (20, 20), "grey"), np.full((2, 2), 0.1), np.full((2, 2), 0.4)
    assert redness(heat_overlay(image, weak, 0.4)).max() < redness(heat_overlay(image, strong, 0.4)).min()
    assert np.array_equal(heat_overlay(image, weak, 0.1), heat_overlay(image, strong, 0.4))
    assert not redness(heat_overlay(image, 0 * weak, 0.4)).any()


def thing(row: int, column: int) -> scenes.Thing:
    return scenes.Thing((row, column), "circle", "red", "large", "plain")


def test_the_truth_of_a_phrase_and_what_its_map_chooses(model, processor, monkeypatch):
    first, second = thing(0, 0), thing(2, 2)
    scene = scenes.Scene("plain", (first, second))
    text = "make the red circle blue, in the top left corner, over the plain background"
    spans = [span("the red circle", text), span("the top left corner", text), span("blue", text)]
    denoted = [scenes.Denotation(things=(second,)), scenes.Denotation(cells=((0, 0),)), scenes.Denotation()]
    phrases = [
        GroundedPhrase(some["text"], some["start"], some["end"], "recolour", denotes)
        for some, denotes in zip(spans, denoted, strict=True)
    ]
    truth = GroundTruth(scene, 5, phrases)
    image = scenes.render(scene, 5)
    spans.append(span("background", text))  # not among the phrases of the truth
    growing = np.outer(np.arange(6), np.arange(6))  # towards the bottom right, where the second thing is
    for grid, right in ((growing, True), (growing[::-1, ::-1], False)):
        monkeypatch.setattr(concepts, "attention_maps", lambda *args, grid=grid: ([grid] * 4, [grid] * 4))
        found = concept_maps(model, processor, image, text, spans, truth)
        circle, corner, new, unknown = found.truths
        assert np.array_equal(circle.mask, scenes.thing_mask(scene, 5, second))
        assert np.array_equal(circle.choice[0], scenes.cell_mask((2, 2) if right else (0, 0)))
        assert circle.choice[1] is right
        assert np.array_equal(corner.mask, scenes.cell_mask((0, 0))) and corner.choice is None
        assert new is None and unknown is None
    assert concept_maps(model, processor, image, text, spans).truths == [None] * 4


def test_outlines_follow_the_edge_of_a_mask():
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:6, :4] = True
    found = np.asarray(outlined(Image.new("RGB", (8, 8)), mask, (1, 2, 3)))
    line = (found == (1, 2, 3)).all(-1)
    assert line.sum() == 12 and line[2, :4].all() and line[2:6, 0].all() and not line[3:5, 1:3].any()
    assert not found[~line].any()
    larger = np.asarray(outlined(Image.new("RGB", (16, 16)), mask, (1, 2, 3))).any(-1)
    assert larger[4, :8].all() and not larger[5, 1:7].any()


def test_the_truth_is_drawn(maps_with_truth):
    figure = concept_attention_figure({"a": [maps_with_truth]})
    pictures = [np.asarray(image.get_array()) for image in figure.axes[0].images][2:]
    blue = [(picture == OUTLINE).all(-1).any() for picture in pictures]
    frames = map(ImageColor.getrgb, (TARGET, REFERENCE))
    green, red = ([(picture == color).all(-1).any() for picture in pictures] for color in frames)
    assert blue == [True, True, True, True, False, False]  # both maps of the two phrases whose truth is known
    assert green == [True, False, False, False, False, False]  # in context
    assert red == [False, False, True, False, False, False]
    assert any(text.startswith("Blue line") for text in texts(figure))
    check_layout(figure)


@pytest.fixture
def maps_with_truth() -> ConceptMaps:
    mask, cell = np.zeros((30, 30), dtype=bool), np.zeros((30, 30), dtype=bool)
    mask[2:7, 2:7], cell[:10, :10] = True, True
    truths = [TruePhrase(mask, (cell, True)), TruePhrase(mask, (cell, False)), None]
    return replace(maps_of(["one", "two", "three"]), truths=truths)


def maps_of(phrases=("the star", "a ring"), text="make it", context=None, isolated=None) -> ConceptMaps:
    image = Image.new("RGB", (30, 30), (10, 200, 30))
    given = [context or [UNIFORM] * len(phrases), isolated or [UNIFORM] * len(phrases)]
    return ConceptMaps(image, text, list(phrases), *given)


@pytest.mark.parametrize("names", ["a", "ab"])
@pytest.mark.parametrize("max_phrases", [1, 4])
def test_each_phrase_has_a_pair_of_maps_for_each_model(names, max_phrases):
    queries = [maps_of(), maps_of(["one", "two", "three", "four", "five", "six"])]
    figure = concept_attention_figure(dict.fromkeys(names, queries), max_phrases=max_phrases)
    phrases = {1: 1 + 1, 4: 2 + 4}[max_phrases]
    assert len(figure.axes[0].images) == 1 + len(queries) + 2 * phrases * len(names)  # the key, references, maps
    assert texts(figure).count("TV 0.00") == phrases * len(names)
    assert texts(figure).count("in context") == texts(figure).count("isolated") == phrases
    assert [text for text in ("one", "four", "five") if text in texts(figure)] == ["one", "four"][:max_phrases]
    assert [name for name in "ab" if name in texts(figure)] == (["a", "b"] if names == "ab" else [])
    check_layout(figure)


def test_a_pair_shares_its_scale():
    maps = maps_of(["the star"], context=[CORNER], isolated=[UNIFORM])
    figure = concept_attention_figure({"a": [maps]})
    assert "TV 0.75" in texts(figure)
    context, isolated = figure.axes[0].images[-2:]
    assert np.array_equal(context.get_array(), heat_overlay(maps.image, CORNER, 1))
    assert np.array_equal(isolated.get_array(), heat_overlay(maps.image, UNIFORM, 1))
    assert context.get_window_extent().x1 < isolated.get_window_extent().x0


def test_missing_maps_and_long_texts():
    partly = maps_of(context=[None, UNIFORM], isolated=[None, UNIFORM])
    figure = concept_attention_figure(dict.fromkeys("ab", [partly, maps_of([])]))
    assert texts(figure).count("no tokens") == 2 and texts(figure).count("no noun phrases") == 1
    assert len(figure.axes[0].images) == 1 + 2 + 2 * 2
    check_layout(figure)
    maps = [maps_of(["a very long noun phrase " * 9, "y" * 300, "the $5 star"], text) for text in LONG_TEXTS]
    check_layout(concept_attention_figure({"a run whose name is long": maps, "z" * 90: maps}))


@pytest.mark.parametrize(
    "runs, message",
    [
        ({"a": [maps_of()], "b": [maps_of(["the star"])]}, "a and b"),
        ({"a": [maps_of()], "b": [maps_of()] * 2}, "a and b"),
        ({}, "0 .*0 models"),
        ({"a": []}, "0 .*1 models"),
    ],
)
def test_errors(runs, message):
    with pytest.raises(ValueError, match=message):
        concept_attention_figure(runs)
