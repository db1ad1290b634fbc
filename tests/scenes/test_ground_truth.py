"""Pictures, masks, and the published ground truth."""

import json
import random
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from contextcir import scenes
from contextcir.scenes import Denotation, Edit, Scene, Thing, denoted_mask, render, thing_mask
from contextcir.scenes.world import CELLS
from tests.scenes.small_scenes import HEART, RING, STAR, THREE, TWO


def pixels(scene, nuisance, size=96):
    return np.asarray(render(scene, nuisance, size)).astype(int)


def test_the_nuisance_seed_changes_pixels():
    """Copies of a scene differ by more than noise."""
    first, again, other = (pixels(TWO, nuisance) for nuisance in (1, 1, 2))
    assert first.shape == (96, 96, 3)
    assert (first == again).all()
    assert (first != other).mean() > 0.5
    assert np.mean([np.abs(pixels(TWO, 2 * n) - pixels(TWO, 2 * n + 1)).mean() for n in range(20)]) > 10


@pytest.mark.parametrize("size", [64, 96, 224])
def test_masks_cover_things(size):
    square = replace(STAR, shape="square")
    scene = Scene("plain", (square, RING))
    mask, ring = (thing_mask(scene, 3, thing, size) for thing in (square, RING))
    picture = pixels(scene, 3, size)
    reddish = picture[..., 0] - picture[..., 2] > 80
    assert reddish[mask].mean() > 0.7  # the rest is outline
    assert not reddish[~mask].any()
    assert not (mask & ring).any()
    assert (scenes.background_mask(scene, 3, size) ^ mask ^ ring).all()


def test_things_stay_in_their_cells(queries):
    for nuisance, scene in enumerate(query.target for query in queries[:100]):
        for thing in scene.things:
            assert not thing_mask(scene, nuisance, thing)[~scenes.cell_mask(thing.cell)].any()


def test_masks_of_denotations():
    both = denoted_mask(TWO, 0, Denotation(things=TWO.things))
    assert (both == thing_mask(TWO, 0, STAR) | thing_mask(TWO, 0, RING)).all()
    assert (denoted_mask(TWO, 0, Denotation(background=True)) == ~both).all()
    assert denoted_mask(TWO, 0, Denotation(cells=(CELLS[4],))).mean() == pytest.approx(1 / 9)
    assert not denoted_mask(TWO, 0, Denotation()).any()
    with pytest.raises(ValueError, match="green"):
        thing_mask(TWO, 0, replace(STAR, colour="green"))


def test_smallest_size():
    assert render(TWO, 0, 48).size == (48, 48)
    with pytest.raises(ValueError, match="47.*48"):
        render(TWO, 0, 47)


def test_looks_can_be_told_apart():
    """The mean pictures over many nuisance seeds differ for each pair of looks."""
    looks = product(("white", "black", "red"), ("plain", "checked", "striped"))
    squares = [replace(STAR, shape="square", colour=colour, pattern=pattern) for colour, pattern in looks]
    means = [np.mean([pixels(Scene("plain", (thing,)), n) for n in range(40)], axis=0) for thing in squares]
    for one, other in combinations(means, 2):
        assert np.abs(one - other)[:32, :32].mean() > 2


def test_json_round_trip(queries):
    for query in queries:
        assert scenes.scene_from_json(json.loads(json.dumps(scenes.scene_to_json(query.target)))) == query.target
        for phrase in query.noun_phrases:
            row = json.loads(json.dumps(scenes.denotation_to_row(phrase.denotes)))
            assert scenes.denotation_from_row(query.reference, row) == phrase.denotes
    assert scenes.scene_to_json(Scene("sea", (STAR,))) == {
        "background": "sea",
        "things": [{"cell": [0, 0], "shape": "star", "colour": "red", "size": "large", "pattern": "plain"}],
    }


FIRST = scenes.scene_to_json(TWO)["things"][0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"background": "moon"}, "background 'moon'.*plain, meadow"),
        ({"things": [{"cell": [0, 0]}]}, "'shape'"),
        ({"things": None}, "TypeError"),
        ({"things": [FIRST | {"cell": [0, 3]}]}, r"cell \(0, 3\)"),
        ({"things": [FIRST | {"colour": "pink"}]}, "colour 'pink'"),
        ({"things": [FIRST] * 2}, r"\[0, 0\].*\[0, 0\]"),
    ],
)
def test_invalid_scenes(change, message):
    with pytest.raises(ValueError, match=message):
        scenes.scene_from_json(scenes.scene_to_json(TWO) | change)


def test_a_denoted_cell_must_hold_a_thing():
    with pytest.raises(ValueError, match=r"\[\[0, 1\]\]"):
        scenes.denotation_from_row(THREE, {"things": [[0, 1]], "cells": [], "background": False})


@pytest.mark.parametrize(
    "role, denotes",
    [
        ("remove", Denotation(things=(STAR,))),
        ("remove", Denotation(cells=(STAR.cell,))),
        ("add", Denotation(cells=(CELLS[1],))),
        ("kept", Denotation(things=(HEART,))),
        ("landmark", Denotation(things=(RING,))),
        ("landmark", Denotation(things=THREE.things)),
        ("background", Denotation(background=True)),
        ("new", Denotation()),
    ],
)
def test_roles(role, denotes):
    edits = (Edit("remove", STAR), Edit("add", new=Thing(CELLS[1], "ring", "red", "small", "plain")))
    assert scenes.role(scenes.make_query(random.Random(0), THREE, edits, HEART), denotes) == role
