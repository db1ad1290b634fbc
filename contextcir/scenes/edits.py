"""Edits: what a modification text asks for, as data.

An edit names what it acts on in the reference scene (`old`) and what is there afterwards (`new`), so that any subset
of a list of edits can be applied (partial edits), and the same list can be applied to another scene. The edits of one
list act on different things and different free cells: their order does not matter.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace

from contextcir.scenes.world import BACKGROUNDS, COLOURS, MAX_OBJECTS, PATTERNS, SHAPES, Scene, Thing, sample_thing

KINDS = ("recolour", "resize", "repattern", "replace", "add", "remove", "move", "background")
EDIT_OF = {"colour": "recolour", "pattern": "repattern", "shape": "replace", "size": "resize"}


@dataclass(frozen=True)
class Edit:
    """One change: `old` becomes `new` (things), or the background becomes `background`.

    `old` is None when something is added; `new` is None when something is removed.
    """

    kind: str
    old: Thing | None = None
    new: Thing | None = None
    background: str | None = None


def apply(scene: Scene, edits: Iterable[Edit]) -> Scene:
    """The scene after the edits.

    Raises:
        ValueError: If an edit acts on something that the scene does not hold, or puts a thing where one stands.
    """
    edits = list(edits)
    background = scene.background
    things = set(scene.things)
    for edit in edits:
        if edit.old is not None:
            if edit.old not in things:
                raise ValueError(f"the scene holds no {edit.old}; it holds {scene.things}")
            things.remove(edit.old)
    for edit in edits:
        if edit.new is not None:
            if any(thing.cell == edit.new.cell for thing in things):
                raise ValueError(f"cell {edit.new.cell} is taken; the scene holds {scene.things}")
            things.add(edit.new)
        if edit.background is not None:
            background = edit.background
    return Scene(background, tuple(sorted(things)))


def inverse(edit: Edit, scene: Scene) -> Edit:
    """The edit that undoes `edit`, which was done to `scene`."""
    if edit.kind == "background":
        return Edit("background", background=scene.background)
    kind = {"add": "remove", "remove": "add"}.get(edit.kind, edit.kind)
    return Edit(kind, old=edit.new, new=edit.old)


def changes(edit: Edit) -> dict:
    """What an edit sets of a thing that is there before and after: attribute or `cell` -> its new value."""
    names = (field.name for field in fields(Thing))
    return {n: getattr(edit.new, n) for n in names if getattr(edit.new, n) != getattr(edit.old, n)}


def done_to(thing: Thing, edit: Edit) -> Edit:
    """The same change as `edit`, of another thing."""
    if edit.new is None:
        return replace(edit, old=thing)
    return replace(edit, old=thing, new=replace(thing, **changes(edit)))


def exchange(rng: random.Random, scene: Scene, preferred: Collection[Thing] = ()) -> list[Edit]:
    """Two edits by which two things exchange an attribute, one of them `preferred` if possible; none where all are
    alike."""
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
        if one.look() == replace(other, **{name: getattr(one, name)}).look():
            continue  # alike but for this attribute: exchanging it is moving them
        return [
            Edit(EDIT_OF[name], old=one, new=replace(one, **{name: getattr(other, name)})),
            Edit(EDIT_OF[name], old=other, new=replace(other, **{name: getattr(one, name)})),
        ]
    return []


def sample_edits(rng: random.Random, scene: Scene, count: int) -> list[Edit]:
    """`count` random edits that do not touch each other (fewer where the scene has no room for so many)."""
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
                edits.append(Edit(kind, new=_something_to_add(rng, scene, free.pop())))
                added += 1
        elif untouched:
            if kind == "remove" and len(scene.things) + added - removed <= 1:
                continue  # a scene is never left empty
            if kind == "move" and not free:
                continue
            old = untouched.pop()
            edits.append(_edit_of(rng, kind, old, free))
            removed += kind == "remove"
    return edits


def _something_to_add(rng: random.Random, scene: Scene, cell: tuple[int, int]) -> Thing:
    if rng.random() < 0.25:  # "add another red circle"
        return replace(rng.choice(scene.things), cell=cell)
    return sample_thing(rng, cell)


def _edit_of(rng: random.Random, kind: str, old: Thing, free: list[tuple[int, int]]) -> Edit:
    if kind == "remove":
        return Edit(kind, old=old)
    if kind == "move":
        return Edit(kind, old=old, new=replace(old, cell=free.pop()))
    if kind == "resize":
        return Edit(kind, old=old, new=replace(old, size="small" if old.size == "large" else "large"))
    if kind == "recolour":
        return Edit(kind, old=old, new=replace(old, colour=_other(rng, COLOURS, old.colour)))
    if kind == "repattern":
        return Edit(kind, old=old, new=replace(old, pattern=_other(rng, PATTERNS, old.pattern)))
    new = replace(old, shape=_other(rng, SHAPES, old.shape))
    if rng.random() < 0.7:
        new = replace(new, colour=_other(rng, COLOURS, old.colour))
    if rng.random() < 0.3:
        new = replace(new, pattern=_other(rng, PATTERNS, old.pattern))
    return Edit("replace", old=old, new=new)


def _other(rng: random.Random, values: Sequence[str], old: str) -> str:
    return rng.choice([value for value in values if value != old])
