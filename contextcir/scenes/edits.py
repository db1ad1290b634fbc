"""Edits: the changes that a modification text asks for, as data.

An edit names a thing of the reference scene (`old`) and the result (`new`). So any subset of a list of edits can be
applied, and the same edits can be applied to another scene. The edits of one list change different things and fill
different free cells, so their order does not matter.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from contextcir.scenes.world import (
    BACKGROUNDS,
    MAX_OBJECTS,
    VALUES,
    Cell,
    Scene,
    Thing,
    sample_other_value,
    sample_thing,
)

KINDS = ("recolour", "resize", "repattern", "replace", "add", "remove", "move", "background")
ATTRIBUTES = ("cell", *VALUES)
EDIT_OF = {"colour": "recolour", "pattern": "repattern", "shape": "replace", "size": "resize"}


@dataclass(frozen=True)
class Edit:
    """One change: `old` becomes `new` (things), or the background becomes `background`.

    `old` is `None` when something is added. `new` is `None` when something is removed.
    """

    kind: str
    old: Thing | None = None
    new: Thing | None = None
    background: str | None = None


def apply(scene: Scene, edits: Iterable[Edit]) -> Scene:
    """Return the scene after the edits.

    Raises:
        ValueError: An edit changes a thing that the scene does not hold, or puts a thing into an occupied cell.
    """
    edits = list(edits)
    background = scene.background
    things = set(scene.things)
    for edit in edits:
        if edit.old is not None:
            if edit.old not in things:
                raise ValueError(f"Got an edit of {edit.old}, expected one of {scene.things}.")
            things.remove(edit.old)
    for edit in edits:
        if edit.new is not None:
            if any(thing.cell == edit.new.cell for thing in things):
                raise ValueError(f"Got an edit that fills cell {edit.new.cell}, which is occupied in {scene.things}.")
            things.add(edit.new)
        if edit.background is not None:
            background = edit.background
    return Scene(background, tuple(sorted(things)))


def inverse(edit: Edit, scene: Scene) -> Edit:
    """Return the edit that undoes `edit` of `scene`."""
    if edit.kind == "background":
        return Edit("background", background=scene.background)
    kind = {"add": "remove", "remove": "add"}.get(edit.kind, edit.kind)
    return Edit(kind, old=edit.new, new=edit.old)


def changed_attributes(edit: Edit) -> list[str]:
    """Return the attributes that an edit changes: all of a thing that is added or removed, none for the background."""
    return [name for name in ATTRIBUTES if getattr(edit.old, name, None) != getattr(edit.new, name, None)]


def transfer(edit: Edit, thing: Thing) -> Edit:
    """Return the same change as `edit`, for another thing."""
    if edit.new is None:
        return replace(edit, old=thing)
    values: dict[str, Any] = {name: getattr(edit.new, name) for name in changed_attributes(edit)}
    return replace(edit, old=thing, new=replace(thing, **values))


def exchange(rng: random.Random, scene: Scene, preferred: Collection[Thing | None] = ()) -> list[Edit]:
    """Return two edits by which two things exchange an attribute, one of them `preferred` if possible.

    The list is empty if no two things differ in a suitable attribute.
    """
    pairs = [
        (one, other, name)
        for one in scene.things
        for other in scene.things
        for name in EDIT_OF
        if one.cell < other.cell and getattr(one, name) != getattr(other, name)
    ]
    rng.shuffle(pairs)
    pairs.sort(key=lambda pair: pair[0] not in preferred and pair[1] not in preferred)
    for one, other, name in pairs:
        if one.look() == other.with_value(name, getattr(one, name)).look():
            continue  # they differ in this attribute only: the exchange would equal a move
        return [
            Edit(EDIT_OF[name], old=one, new=one.with_value(name, getattr(other, name))),
            Edit(EDIT_OF[name], old=other, new=other.with_value(name, getattr(one, name))),
        ]
    return []


def sample_edits(rng: random.Random, scene: Scene, count: int) -> list[Edit]:
    """Sample `count` edits that are independent of each other, or fewer if the scene has no room for more."""
    untouched = list(scene.things)
    rng.shuffle(untouched)
    free = scene.free_cells()
    rng.shuffle(free)
    edits: list[Edit] = []
    removed = added = 0
    for _ in range(40 * count):
        if len(edits) == count:
            break
        kind = rng.choice(KINDS)
        if kind == "background":
            if all(edit.kind != "background" for edit in edits):
                others = [name for name in BACKGROUNDS if name != scene.background]
                edits.append(Edit(kind, background=rng.choice(others)))
        elif kind == "add":
            if free and len(scene.things) + added - removed < MAX_OBJECTS:
                edits.append(Edit(kind, new=_sample_addition(rng, scene, free.pop())))
                added += 1
        elif untouched:
            if kind == "remove" and len(scene.things) + added - removed <= 1:
                continue  # a scene is never left empty
            if kind == "move" and not free:
                continue
            edits.append(_sample_change(rng, kind, untouched.pop(), free))
            removed += kind == "remove"
    return edits


def _sample_addition(rng: random.Random, scene: Scene, cell: Cell) -> Thing:
    if rng.random() < 0.25:  # "add another red circle"
        return replace(rng.choice(scene.things), cell=cell)
    return sample_thing(rng, cell)


def _sample_change(rng: random.Random, kind: str, old: Thing, free: list[Cell]) -> Edit:
    if kind == "remove":
        return Edit(kind, old=old)
    if kind == "move":
        return Edit(kind, old=old, new=replace(old, cell=free.pop()))
    if kind == "resize":
        return Edit(kind, old=old, new=replace(old, size="small" if old.size == "large" else "large"))
    if kind == "recolour":
        return Edit(kind, old=old, new=sample_other_value(rng, old, "colour"))
    if kind == "repattern":
        return Edit(kind, old=old, new=sample_other_value(rng, old, "pattern"))
    new = sample_other_value(rng, old, "shape")
    if rng.random() < 0.7:
        new = sample_other_value(rng, new, "colour")
    if rng.random() < 0.3:
        new = sample_other_value(rng, new, "pattern")
    return Edit("replace", old=old, new=new)
