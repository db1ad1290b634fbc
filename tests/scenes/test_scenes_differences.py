"""What differs between two scenes, and how well it is told."""

import random
from dataclasses import replace

import pytest

from contextcir.scenes import Edit, Scene, Thing, apply, sample_query, sample_scene
from contextcir.scenes.differences import Score, changed, edits_between, operation, score_differences

STAR = Thing((0, 0), "star", "red", "large", "plain")
RING = Thing((1, 1), "ring", "blue", "small", "striped")
HEART = Thing((2, 2), "heart", "green", "small", "dotted")
TWO = Scene("beach", (STAR, RING))


def difference(operation, text, source=None, target=None):
    return {"operation": operation, "text": text, "source_object": source, "target_object": target}


def test_edits_lead_from_one_scene_to_the_other():
    rng = random.Random(0)
    for number in range(500):
        query = sample_query(rng, 1 + number % 5)
        edits = edits_between(query.reference, query.target)
        assert apply(query.reference, edits) == query.target
        assert len(edits) <= len(query.edits)
        other = sample_scene(rng)
        assert apply(query.reference, edits_between(query.reference, other)) == other


def test_the_kinds_of_edits():
    blue = replace(STAR, colour="blue")
    moved = replace(RING, cell=(2, 0))
    assert edits_between(TWO, Scene("sea", (blue, moved))) == [
        Edit("recolour", STAR, blue),
        Edit("move", RING, moved),
        Edit("background", background="sea"),
    ]
    assert edits_between(TWO, Scene("beach", (STAR, HEART))) == [Edit("remove", old=RING), Edit("add", new=HEART)]
    striped = replace(blue, pattern="striped")
    (edit,) = edits_between(TWO, TWO.changed(STAR, striped))
    assert (edit.kind, changed(edit)) == ("replace", ["colour", "pattern"])
    assert edits_between(TWO, TWO) == []
    kinds = ("add", "remove", "replace", "background", "recolour", "move")
    assert [operation(Edit(kind)) for kind in kinds] == ["add", "remove", "replace", "replace", "modify", "modify"]


@pytest.mark.parametrize(
    "target, told",
    [
        (Scene("beach", (STAR,)), difference("remove", "get rid of the ring", "blue ring")),
        (Scene("beach", (STAR, RING, HEART)), difference("add", "add a small heart", None, "green heart")),
        (TWO.changed(STAR, replace(STAR, colour="blue")), difference("modify", "paint it blue", "red star", "star")),
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
def test_a_true_difference_is_right_and_wrong_of_any_other_pair(target, told):
    assert score_differences([told], TWO, target) == Score(right=1, given=1, true=1)
    assert score_differences([told], TWO, TWO) == Score(right=0, given=1, true=0)


@pytest.mark.parametrize(
    "told",
    [
        difference("remove", "make the star blue", "red star", "blue star"),  # another operation
        difference("modify", "make the ring blue", "blue ring", "blue ring"),  # of another thing
        difference("modify", "make the star green", "red star", "green star"),  # another value
        difference("modify", "change the star", "red star", "blue star"),  # does not say how
        difference("modify", "make the star blue", "red star", None),  # as if it went
        difference("modify", "make the star blue", None, "blue star"),
        difference("modify", "make it blue", "red thing", "blue star"),  # which thing?
        difference("modify", "make it blue", "red star in the center", "blue star"),  # there is none there
        difference("replace", "a blue background", "background", "background"),
    ],
)
def test_a_difference_that_does_not_tell_the_edit(told):
    target = TWO.changed(STAR, replace(STAR, colour="blue"))
    assert score_differences([told], TWO, target) == Score(right=0, given=1, true=1)


def test_a_background_that_is_taken_away_is_named():
    for text, right in (("remove the sand", 1), ("change the background to the sea", 0)):
        told = difference("replace", text, "background", "background")
        assert score_differences([told], TWO, Scene("plain", (STAR, RING))) == Score(right=right, given=1, true=1)


def test_saying_it_twice_is_right_once_and_what_is_ambiguous_is_given_to_what_it_fits():
    two_red = Scene("beach", (STAR, replace(STAR, cell=(0, 1)), RING))
    target = two_red.with_things([replace(STAR, colour="blue"), replace(STAR, cell=(0, 1), colour="blue"), RING])
    vague = difference("modify", "make the star blue", "red star", "blue star")
    exact = difference("modify", "make it blue", "red star in the top left corner", "blue star")
    # The vague one fits both and must leave the first to the exact one, whatever their order.
    assert score_differences([vague, exact], two_red, target).right == 2
    assert score_differences([exact, vague], two_red, target).right == 2
    assert score_differences([exact, exact], two_red, target) == Score(right=1, given=2, true=2)


def test_scores_add_up():
    total = Score(1, 2, 4) + Score(2, 2, 2)
    assert (total.precision, total.recall) == (0.75, 0.5)
    assert (Score().precision, Score().recall) == (0.0, 0.0)
