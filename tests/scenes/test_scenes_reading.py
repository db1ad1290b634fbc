"""Words about scenes, read back."""

import random

import pytest

from contextcir.scenes import Scene, Thing, describe, realise, sample_scene
from contextcir.scenes.phrases import BACKDROPS, backdrop, location
from contextcir.scenes.reading import (
    as_scene,
    as_thing,
    fits,
    mentions,
    read_backgrounds,
    read_caption,
    read_place,
    read_thing,
    read_writing,
    with_writing,
)
from contextcir.scenes.world import CELLS

STAR = Thing((0, 0), "star", "red", "large", "plain")
RING = Thing((1, 1), "ring", "blue", "small", "striped")


def test_every_caption_is_read_back_exactly():
    rng = random.Random(0)
    for _ in range(1000):
        scene = sample_scene(rng)
        text, _ = realise(describe(rng, scene))
        assert read_caption(text) == scene, text
        assert read_caption(text.capitalize() + ".") == scene


@pytest.mark.parametrize("short", [True, False])
def test_every_place_is_read_back(short):
    rng = random.Random(0)
    for cell in CELLS * 20:
        text, _ = realise([location(rng, cell, short)])
        assert read_place(text) == cell, text
    assert read_place("a red star") is None


def test_every_backdrop_is_read_back():
    rng = random.Random(0)
    for background in list(BACKDROPS) * 20:
        text, _ = realise([backdrop(rng, background)])
        assert read_backgrounds(text) == [background], text
    assert read_backgrounds("replace the wall of bricks with a sandy beach") == ["brick", "beach"]
    assert read_backgrounds("the sandwich is underwater") == []


def test_a_reading_holds_what_is_said_and_nothing_else():
    reading = read_thing("the tiny star with dots")
    assert reading == {"size": "small", "shape": "star", "pattern": "dotted"}
    assert fits(Thing((2, 2), "star", "green", "small", "dotted"), reading)
    assert not fits(STAR, reading)
    assert as_thing(reading) is None
    assert as_thing(read_thing("a large red star in the top left corner")) == STAR  # plain, as nothing is said of it


def test_only_what_a_text_introduces_is_mentioned():
    text = "replace the blue ring with a large star, add another ring at the top and make the sky blue"
    assert mentions(text) == [{"size": "large", "shape": "star"}, {"shape": "ring", "cell": (0, 1), "colour": "blue"}]
    assert mentions("is green and a bit brighter") == []


@pytest.mark.parametrize(
    "text",
    [
        "a dog on a sofa",
        "a red star in the top left corner on a beach",  # of which size?
        "a large red star on a beach",  # where?
        "a large red star in the top left corner",  # in front of what?
        "a large red star in the center and a small blue ring in the middle on a beach",  # both there?
        "a beach",
        "",
    ],
)
def test_a_caption_that_leaves_something_open_is_no_scene(text):
    assert read_caption(text) is None


def test_things_of_a_scene_are_sorted():
    assert as_scene("sea", [RING, STAR]) == Scene("sea", (STAR, RING))


def test_writing_is_reported_and_not_taken_for_a_thing():
    caption = "a large red star in the top left corner on a beach"
    written = with_writing(caption, "add a small blue ring in the center")
    assert read_caption(written) == read_caption(caption) == Scene("beach", (STAR,))
    assert read_writing(written) == "add a small blue ring in the center"
    assert with_writing(caption, "") == caption
    assert read_writing(caption) == ""
