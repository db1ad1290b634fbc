"""Scenes that are nearly right for a query, by the type of mistake that retrieves them.

This file has the mistakes that follow from one query. Those that follow from other queries (another text for the same
scene, the same text for another scene) come from the [`~contextcir.scenes.blocks.Block`].
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from contextcir.scenes.edits import Edit, apply, exchange, sample_edits, transfer
from contextcir.scenes.queries import SceneQuery
from contextcir.scenes.world import Scene

KINDS = {  # types of wrong pictures, specific ones first: a picture gets the first type that fits
    "reference": "the reference itself",
    "copy": "another picture of the reference scene",
    "partial": "some of the edits were left undone",
    "over": "one more edit was done",
    "negation": "a negation was ignored: there is one more of what the text removes, or something has changed that the"
    " text leaves alone",
    "binding": "two things have exchanged an attribute",
    "wrong_thing": "an edit was done to another thing",
    "other_edit": "the reference scene, with another edit",
    "other_scene": "the same edit in another scene",
}


def mistakes(rng: random.Random, query: SceneQuery, single_edits: Sequence[Edit]) -> dict[str, list[Scene]]:
    """
    Return scenes that result from typical mistakes about a query.

    Args:
        rng (`random.Random`): Chooses if there are many.
        query (`SceneQuery`): The query.
        single_edits (`Sequence[Edit]`): All edits of the reference scene that any text asks for, including those of
            the query. One of the others is the excessive edit of `over`; if there is none, a random edit is.

    Returns:
        `dict[str, list[Scene]]`: Under `partial` every way to leave out one edit; under `over`, `negation`, `binding`
        and `wrong_thing` scenes as [`KINDS`] describes them, if the query allows any. No scene equals the target.
    """
    reference, target, edits = query.reference, query.target, query.edits
    others = [edit for edit in single_edits if edit not in edits] or sample_edits(rng, target, 1)
    exchanged = exchange(rng, target, [edit.new for edit in edits])
    found = {
        "partial": [apply(reference, part) for part in combinations(edits, len(edits) - 1) if part],
        "over": [apply(target, [edit]) for edit in others],
        "negation": list(_negation_ignored(rng, query)),
        "binding": [apply(target, exchanged)] if exchanged else [],
        "wrong_thing": list(_wrong_thing(rng, query)),
    }
    return {kind: [scene for scene in scenes if scene != target] for kind, scenes in found.items()}


def partial_results(query: SceneQuery) -> Iterator[Scene]:
    """Iterate over the results of applying some edits of a query: at least one, but not all."""
    for size in range(1, len(query.edits)):
        for part in combinations(query.edits, size):
            yield apply(query.reference, part)


def _negation_ignored(rng: random.Random, query: SceneQuery) -> Iterator[Scene]:
    """Iterate over the results of a negation that is ignored.

    "Remove the star" gives one more star. "Make the circle red, and do not change the star" gives a red star, too.
    """
    for edit in query.edits:
        if edit.kind == "remove" and edit.old:
            scene = apply(query.reference, [other for other in query.edits if other != edit])
            if free := scene.free_cells():
                yield scene.with_things([*scene.things, replace(edit.old, cell=rng.choice(free))])
    if query.kept is not None:
        changes = [transfer(edit, query.kept) for edit in query.edits if edit.old is not None and edit.kind != "move"]
        changes = [change for change in changes if change.new != change.old and len(query.target.things) > 1]
        if changes:
            yield apply(query.target, [rng.choice(changes)])


def _wrong_thing(rng: random.Random, query: SceneQuery) -> Iterator[Scene]:
    """Return the result of applying one edit to a thing that no edit is about, if there is one."""
    touched = {edit.old for edit in query.edits}
    swaps = [
        (edit, change)
        for edit in query.edits
        if edit.old is not None and edit.kind != "move"
        for thing in query.reference.things
        if thing not in touched and (change := transfer(edit, thing)).new != thing
    ]
    if swaps:
        edit, change = rng.choice(swaps)
        yield apply(query.reference, [change if other == edit else other for other in query.edits])
