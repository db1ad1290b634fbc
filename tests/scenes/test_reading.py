"""Parsing of texts about scenes."""

import random
from itertools import product

import pytest

from contextcir.scenes import Scene, Thing, describe, reading, realise
from contextcir.scenes.phrases import BACKDROPS, backdrop, location
from contextcir.scenes.world import CELLS
from tests.scenes.small_scenes import RING, STAR, TWO


def test_captions_round_trip(queries):
    rng = random.Random(0)
    for query in queries:
        for scene in (query.reference, query.target):
            text, _ = realise(describe(rng, scene))
            assert reading.read_caption(text) == scene, text
            assert reading.read_caption(text.capitalize() + ".") == scene


def test_places_and_backdrops_round_trip():
    rng = random.Random(0)
    for _ in range(20):
        for cell, short in product(CELLS, (True, False)):
            assert reading.read_place(realise([location(rng, cell, short)])[0]) == cell
        for background in BACKDROPS:
            assert reading.read_backgrounds(realise([backdrop(rng, background)])[0]) == [background]
    assert reading.read_place("a red star") is None
    assert reading.read_backgrounds("replace the wall of bricks with a sandy beach") == ["brick", "beach"]
    assert reading.read_backgrounds("the sandwich is underwater") == []


def test_a_reading_holds_the_mentioned_attributes_only():
    found = reading.read_thing("the tiny star with dots")
    assert found == {"size": "small", "shape": "star", "pattern": "dotted"}
    assert reading.fits(Thing((2, 2), "star", "green", "small", "dotted"), found)
    assert not reading.fits(STAR, found)
    assert reading.as_thing(found) is None
    assert reading.as_thing(reading.read_thing("a large red star in the top left corner")) == STAR  # plain by default


def test_mentions_are_introduced_things():
    text = "replace the blue ring with a large star, add another ring at the top and make the sky blue"
    assert reading.mentions(text) == [
        {"size": "large", "shape": "star"},
        {"shape": "ring", "cell": (0, 1), "colour": "blue"},
    ]
    assert reading.mentions("is green and a bit brighter") == []


@pytest.mark.parametrize(
    "text",
    [
        "a dog on a sofa",
        "a red star in the top left corner on a beach",  # no size
        "a large red star on a beach",  # no place
        "a large red star in the top left corner",  # no background
        "a large red star in the center and a small blue ring in the middle on a beach",  # the same place
        "a beach",
        "",
    ],
)
def test_incomplete_captions(text):
    assert reading.read_caption(text) is None
    assert reading.as_scene("beach", [RING, None]) is None and reading.as_scene("beach", [RING, STAR]) == TWO


def test_words_written_across_a_picture():
    caption = "a large red star in the top left corner on a beach"
    written = reading.with_writing(caption, "add a small blue ring in the center")
    assert reading.read_caption(written) == reading.read_caption(caption) == Scene("beach", (STAR,))
    assert reading.read_writing(written) == "add a small blue ring in the center"
    assert reading.with_writing(caption, "") == caption
    assert reading.read_writing(caption) == ""
