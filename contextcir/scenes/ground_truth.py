"""Ground truth as it is published: scenes and denotations in JSON and back, and masks drawn from them.

A scene and its nuisance seed are the picture, so that masks need not be stored: they are drawn again, at any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np

from contextcir.scenes.queries import SceneQuery
from contextcir.scenes.render import BASE_SIZE, background_mask, cell_mask, thing_mask
from contextcir.scenes.trees import Denotation
from contextcir.scenes.world import BACKGROUNDS, CELLS, VALUES, Scene, Thing


def scene_to_json(scene: Scene) -> dict[str, Any]:
    """`{"background": "plain", "things": [{"cell": [0, 1], "shape": "circle", ...}]}`."""
    return {"background": scene.background, "things": [asdict(t) | {"cell": list(t.cell)} for t in scene.things]}


def scene_from_json(data: dict[str, Any]) -> Scene:
    """
    The inverse of [`scene_to_json`].

    Raises:
        ValueError: There is something that the world of the scenes does not know, or two things are in one cell.
    """
    try:
        background = _known(data["background"], BACKGROUNDS, "background")
        things = [_thing(tuple(t["cell"]), *(t[name] for name in VALUES)) for t in data["things"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"got {data!r}, expected a scene as scene_to_json writes it ({error!r}).") from None
    if len({thing.cell for thing in things}) < len(things):
        raise ValueError(f"got {data!r}, where two things are in one cell; expected one at most.")
    return Scene(background, tuple(sorted(things)))


@cache  # there are 4,608 things; a truth of 100,000 pictures holds each of them once
def _thing(cell: tuple[int, int], *look: str) -> Thing:
    _known(cell, CELLS, "cell")
    return Thing(cell, *(_known(value, VALUES[name], name) for name, value in zip(VALUES, look, strict=True)))


def _known(value, values: Sequence, name: str):
    if value not in values:
        raise ValueError(f"got {name} {value!r}, expected one of {', '.join(map(str, values))}.")
    return value


def denotation_to_row(denotes: Denotation) -> dict[str, Any]:
    """What a noun phrase denotes: the cells of the `things`, the `cells` that it speaks of, and the `background`."""
    return {
        "things": [list(thing.cell) for thing in denotes.things],
        "cells": [list(cell) for cell in denotes.cells],
        "background": denotes.background,
    }


def denotation_from_row(scene: Scene, row: dict[str, Any]) -> Denotation:
    """
    What a noun phrase denotes in its reference scene, from what [`denotation_to_row`] gave.

    Raises:
        ValueError: The scene has nothing in a cell where it denotes a thing.
    """
    things = [scene.at(tuple(cell)) for cell in row["things"]]
    if None in things:
        raise ValueError(f"a noun phrase denotes things at {row['things']}, and the scene holds {scene.things}")
    return Denotation(tuple(things), tuple(tuple(cell) for cell in row["cells"]), row["background"])


def role(query: SceneQuery, denotes: Denotation) -> str:
    """What becomes of what a noun phrase denotes: the kind of its edit; `kept`, as the text says; `landmark`, if it
    only helps to find something; or `new`, if nothing in the reference picture is denoted."""
    if denotes.background:
        return "background"
    if not denotes.things and not denotes.cells:
        return "new"
    if query.kept is not None and denotes.things == (query.kept,):
        return "kept"
    places = {thing.cell for thing in denotes.things} | set(denotes.cells)
    kinds = {place: "landmark" for place in places}
    for edit in query.edits:
        for thing in (edit.old, edit.new):
            if thing is not None and thing.cell in places:
                kinds[thing.cell] = edit.kind
    found = set(kinds.values())
    return found.pop() if len(found) == 1 else "landmark"


def denoted_mask(scene: Scene, nuisance: int, denotes: Denotation, size: int = BASE_SIZE) -> np.ndarray:
    """The pixels of the reference picture that a noun phrase speaks of: `(size, size)` booleans, maybe none."""
    mask = np.zeros((size, size), dtype=bool)
    for thing in denotes.things:
        mask |= thing_mask(scene, nuisance, thing, size)
    for cell in denotes.cells:
        mask |= cell_mask(cell, size)
    if denotes.background:
        mask |= background_mask(scene, nuisance, size)
    return mask
