"""Attention maps through a training: columns in order of steps, one scale a row, and the share inside the truth."""

import numpy as np
import pytest
from PIL import Image

from contextcir.visualization import ConceptMaps, attention_steps_figure
from contextcir.visualization.concepts import OUTLINE, TruePhrase, heat_overlay
from tests.visualization.layout import LONG_TEXTS, check_layout, texts

UNIFORM, CORNER = np.full((2, 2), 0.25), np.array([[0.7, 0.1], [0.1, 0.1]])
MASK = np.array([[True, False], [False, False]])


def maps(grid, text="make the red square blue", phrases=("the red square",), truth=None) -> ConceptMaps:
    image = Image.new("RGB", (40, 40), (90, 130, 200))
    truths = [truth] * len(phrases) if truth else []
    return ConceptMaps(image, text, list(phrases), [grid] * len(phrases), [grid] * len(phrases), truths)


def drawn(figure) -> list[np.ndarray]:
    """The tiles, without the colour scale, from the left and the top."""
    tiles = [image for image in figure.axes[0].images if image.get_array().shape[0] > 10]
    return [image.get_array() for image in sorted(tiles, key=lambda one: (one.get_extent()[3], one.get_extent()[0]))]


def test_a_column_for_each_step_on_one_scale():
    figure = attention_steps_figure({100: [maps(CORNER)], 5: [maps(UNIFORM)]})
    assert [text for text in texts(figure) if text in ("step 5", "100")] == ["step 5", "100"]  # in order of steps
    image, early, late = drawn(figure)
    blue = Image.new("RGB", (40, 40), (90, 130, 200))
    np.testing.assert_array_equal(image, np.asarray(blue))
    np.testing.assert_array_equal(early, np.asarray(heat_overlay(blue, UNIFORM, 0.7)))  # the maximum of the row
    np.testing.assert_array_equal(late, np.asarray(heat_overlay(blue, CORNER, 0.7)))
    assert not any("%" in text or "Blue line" in text for text in texts(figure))


def test_the_share_inside_of_what_a_phrase_names():
    truth = TruePhrase(MASK)
    figure = attention_steps_figure({1: [maps(UNIFORM, truth=truth)], 2: [maps(CORNER, truth=truth)]})
    assert [text for text in texts(figure) if text.endswith("%")] == ["even map: 25 %", "25 %", "70 %"]
    assert any(text.startswith("Blue line") for text in texts(figure))
    for tile in drawn(figure)[1:]:
        assert tuple(tile[0, 0]) == OUTLINE and tuple(tile[30, 30]) != OUTLINE


def test_the_first_phrases_that_have_a_map():
    phrases = ["cut off", "the one", "the other", "the third"]
    steps = {}
    for step in (1, 2):
        some = maps(UNIFORM, phrases=phrases)
        some.context[0] = None
        steps[step] = [some, maps(UNIFORM, "no phrase in it", ())]
    figure = attention_steps_figure(steps, max_phrases=2)
    assert [text for text in texts(figure) if text.startswith(("the ", "cut", "no "))] == ["the one", "the other"]
    assert len(drawn(figure)) == 1 + 4


@pytest.mark.parametrize("count", [1, 8])
def test_no_text_is_clipped_or_overlaps(count):
    def row():
        return [maps(CORNER, text, (text[:40], "x" * 60), TruePhrase(MASK)) for text in LONG_TEXTS]

    check_layout(attention_steps_figure({1000 * step: row() for step in range(count)}))


@pytest.mark.parametrize(
    "steps, message",
    [
        ({}, "no attention map.*0 steps"),
        ({1: [maps(UNIFORM, phrases=())]}, "no attention map"),
        ({1: [maps(UNIFORM)], 2: [maps(UNIFORM, "another text")]}, r"\[1, 2\]"),
    ],
)
def test_errors(steps, message):
    with pytest.raises(ValueError, match=message):
        attention_steps_figure(steps)
