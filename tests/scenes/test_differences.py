"""Differences between scenes, and scores of difference captions."""

import random
from dataclasses import replace

import pytest

from contextcir.scenes import Edit, Scene, apply, sample_scene
from contextcir.scenes.differences import Score, edits_between, operation, score_differences
from tests.scenes.small_scenes import HEART, RING, STAR, THREE, TWO

BLUE = replace(STAR, colour="blue")


def difference(operation, text, source=None, target=None):
    return {"operation": operation, "text": text, "source_object": source, "target_object": target}


def test_edits_lead_from_one_scene_to_the_other(queries):
    rng = random.Random(0)
    for query in queries:
        edits = edits_between(query.reference, query.target)
        assert apply(query.reference, edits) == query.target
        assert len(edits) <= len(query.edits)
        other = sample_scene(rng)
        assert apply(query.reference, edits_between(query.reference, other)) == other


def test_kinds_of_edits():
    moved = replace(RING, cell=(2, 0))
    assert edits_between(TWO, Scene("sea", (BLUE, moved))) == [
        Edit("recolour", STAR, BLUE),
        Edit("move", RING, moved),
        Edit("background", background="sea"),
    ]
    assert edits_between(TWO, Scene("beach", (STAR, HEART))) == [Edit("remove", old=RING), Edit("add", new=HEART)]
    (edit,) = edits_between(TWO, TWO.changed(STAR, replace(BLUE, pattern="striped")))
    assert edit.kind == "replace"
    assert edits_between(TWO, TWO) == []
    kinds = ("add", "remove", "replace", "background", "recolour", "move")
    assert [operation(Edit(kind)) for kind in kinds] == ["add", "remove", "replace", "replace", "modify", "modify"]


@pytest.mark.parametrize(
    "target, caption",
    [
        (Scene("beach", (STAR,)), difference("remove", "get rid of the ring", "blue ring")),
        (THREE, difference("add", "add a small heart", None, "green heart")),
        (TWO.changed(STAR, BLUE), difference("modify", "paint it blue", "red star", "star")),
        (TWO.changed(STAR, replace(STAR, size="small")), difference("modify", "shrink the star", "star", "star")),
        (TWO.changed(RING, replace(RING, pattern="plain")), difference("modify", "erase the stripes", "ring", "ring")),
        (
            TWO.changed(RING, replace(HEART, cell=(1, 1))),
            difference("replace", "swap it for a small dotted green heart", "blue ring", "green heart"),
        ),
        (Scene("sea", (STAR, RING)), difference("modify", "put it all on water", "background", "background")),
        (Scene("plain", (STAR, RING)), difference("replace", "remove the sand", "background", "background")),
        (TWO.changed(RING, replace(RING, cell=(2, 0))), difference("modify", "move the ring", "blue ring", "ring")),
    ],
)
def test_right_captions(target, caption):
    assert score_differences([caption], TWO, target) == Score(right=1, given=1, true=1)
    assert score_differences([caption], TWO, TWO) == Score(right=0, given=1, true=0)


@pytest.mark.parametrize(
    "caption",
    [
        difference("remove", "make the star blue", "red star", "blue star"),  # another operation
        difference("modify", "make the ring blue", "blue ring", "blue ring"),  # another thing
        difference("modify", "make the star green", "red star", "green star"),  # another value
        difference("modify", "change the star", "red star", "blue star"),  # no value
        difference("modify", "make the star blue", "red star", None),  # no target, as in a removal
        difference("modify", "make the star blue", None, "blue star"),
        difference("modify", "make it blue", "red thing", "blue star"),  # no shape
        difference("modify", "make it blue", "red star in the center", "blue star"),  # another place
        difference("replace", "a blue background", "background", "background"),
        difference("replace", "change the background to the sea", "background", "background"),
    ],
)
def test_wrong_captions(caption):
    for target in (TWO.changed(STAR, BLUE), Scene("plain", TWO.things)):
        assert score_differences([caption], TWO, target) == Score(right=0, given=1, true=1)


def test_each_edit_counts_once():
    other = replace(STAR, cell=(0, 1))
    reference = Scene("beach", (STAR, other, RING))
    target = reference.with_things([BLUE, replace(other, colour="blue"), RING])
    vague = difference("modify", "make the star blue", "red star", "blue star")
    exact = difference("modify", "make it blue", "red star in the top left corner", "blue star")
    # The vague caption fits both edits. In any order, the exact one gets the edit that only it fits.
    assert score_differences([vague, exact], reference, target).right == 2
    assert score_differences([exact, vague], reference, target).right == 2
    assert score_differences([exact, exact], reference, target) == Score(right=1, given=2, true=2)


def test_scores_add_up():
    total = Score(1, 2, 4) + Score(2, 2, 2)
    assert (total.precision, total.recall) == (0.75, 0.5)
    assert (Score().precision, Score().recall) == (0.0, 0.0)
