"""Scenes that are nearly right for a query, by the mistake that retrieves them.

These are the mistakes that can be told from one query. What another text asks of the same scene, and the same text of
another, comes from its [`~contextcir.scenes.blocks.Block`].
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from contextcir.scenes.edits import Edit, apply, done_to, exchange, sample_edits
from contextcir.scenes.queries import SceneQuery
from contextcir.scenes.world import Scene

KINDS = {  # of wrong pictures, the more particular ones first: a picture has the first name that fits
    "reference": "the reference itself",
    "copy": "another picture of the reference scene",
    "partial": "some of the edits were left undone",
    "over": "one more edit was done",
    "negation": "remove or not was read over: there is one more of what the text removes, or what was to be left alone"
    " has changed",
    "binding": "two things have exchanged an attribute",
    "wrong_thing": "an edit was done to another thing",
    "other_edit": "the reference scene, with another edit",
    "other_scene": "the same edit in another scene",
}


def mistakes(rng: random.Random, query: SceneQuery, single_edits: Sequence[Edit]) -> dict[str, list[Scene]]:
    """
    The mistakes that a query invites.

    Args:
        rng (`random.Random`): Picks among many.
        query (`SceneQuery`): The query.
        single_edits (sequence of `Edit`): All edits of the reference scene that any text asks for, the query's own
            among them. Doing one of the others, too, is excessive; where there is none, a random one is.

    Returns:
        `dict[str, list[Scene]]`: Under `partial` every way to leave one edit undone, under `over`, `negation`,
        `binding` and `wrong_thing` what [`KINDS`] says, as far as the query allows; none equals the target.
    """
    reference, target, edits = query.reference, query.target, query.edits
    others = [edit for edit in single_edits if edit not in edits] or sample_edits(rng, target, 1)
    swapped = exchange(rng, target, [edit.new for edit in edits])
    found = {
        "partial": [apply(reference, part) for part in combinations(edits, len(edits) - 1) if part],
        "over": [apply(target, [edit]) for edit in others],
        "negation": list(_negation_ignored(rng, query)),
        "binding": [apply(target, swapped)] if swapped else [],
        "wrong_thing": list(_wrong_thing(rng, query)),
    }
    return {kind: [scene for scene in scenes if scene != target] for kind, scenes in found.items()}


def partly_done(query: SceneQuery) -> Iterator[Scene]:
    """The reference scene with some of the edits done: not all, not none."""
    for size in range(1, len(query.edits)):
        for part in combinations(query.edits, size):
            yield apply(query.reference, part)


def _negation_ignored(rng: random.Random, query: SceneQuery) -> Iterator[Scene]:
    """What a reader of nouns without their verbs makes of "remove the star": more stars; and of "make the circle red,
    and do not change the star": a red star, too."""
    for edit in query.edits:
        if edit.kind == "remove":
            scene = apply(query.reference, [other for other in query.edits if other != edit])
            if free := scene.free_cells():
                yield scene.with_things([*scene.things, replace(edit.old, cell=rng.choice(free))])
    if query.kept is not None:
        changes = [done_to(query.kept, edit) for edit in query.edits if edit.old is not None and edit.kind != "move"]
        changes = [change for change in changes if change.new != change.old and len(query.target.things) > 1]
        if changes:
            yield apply(query.target, [rng.choice(changes)])


def _wrong_thing(rng: random.Random, query: SceneQuery) -> Iterator[Scene]:
    """One edit is done to a thing that no edit speaks of, in place of its own."""
    touched = {edit.old for edit in query.edits}
    swaps = [
        (edit, change)
        for edit in query.edits
        if edit.old is not None and edit.kind != "move"
        for thing in query.reference.things
        if thing not in touched and (change := done_to(thing, edit)).new != thing
    ]
    if swaps:
        edit, change = rng.choice(swaps)
        yield apply(query.reference, [change if other == edit else other for other in query.edits])
