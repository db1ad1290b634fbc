"""Maps of noun phrases before training: a row for each triplet on one scale, and how far each map is trusted."""

import numpy as np
import pytest
from PIL import Image

from contextcir.visualization import GivenMaps, given_maps_figure
from contextcir.visualization.concepts import heat_overlay
from tests.visualization.layout import LONG_TEXTS, check_layout, texts

EVEN, CORNER = np.full((2, 2), 0.25), np.array([[0.7, 0.1], [0.1, 0.1]])
REFERENCE, TARGET = (Image.new("RGB", (40, 40), colour) for colour in ((90, 130, 200), (200, 130, 90)))


def given(maps, text="swap the dog for a cat", phrases=("the dog", "a cat")) -> GivenMaps:
    return GivenMaps(REFERENCE, TARGET, text, list(phrases)[: len(maps)], maps)


def test_maps_of_a_row_are_drawn_as_if_they_were_trusted_on_one_scale():
    figure = given_maps_figure([given([EVEN, 0.31 * CORNER]), given([0 * EVEN])])
    check_layout(figure)
    tiles = [image for image in figure.axes[0].images if image.get_array().shape[0] > 10]
    tiles = [tile.get_array() for tile in sorted(tiles, key=lambda one: (one.get_extent()[3], one.get_extent()[0]))]
    flat = heat_overlay(REFERENCE, 0 * EVEN, 1)
    maps = [heat_overlay(REFERENCE, EVEN, 0.7), heat_overlay(REFERENCE, CORNER, 0.7)]
    for tile, expected in zip(tiles, [REFERENCE, TARGET, *maps, REFERENCE, TARGET, flat], strict=True):
        np.testing.assert_array_equal(tile, np.asarray(expected))
    assert [text for text in texts(figure) if text.endswith("%")] == ["100 %", "31 %", "0 %"]


@pytest.mark.parametrize("text", LONG_TEXTS)
def test_long_texts_keep_clear_of_each_other(text):
    check_layout(given_maps_figure([given([EVEN] * 5, text, [text] * 5), given([], text)]))


def test_the_first_phrases_are_shown():
    figure = given_maps_figure([given([EVEN] * 3, phrases=("one", "two", "three"))], max_phrases=2)
    assert [text for text in texts(figure) if text in ("one", "two", "three")] == ["one", "two"]


def test_no_map_is_refused():
    with pytest.raises(ValueError, match="no map in 1 triplets"):
        given_maps_figure([given([])])
