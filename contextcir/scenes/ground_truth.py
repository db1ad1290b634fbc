"""Ground truth in its published form: scenes and denotations as JSON, and masks.

Masks are not stored: a scene and its nuisance seed define the picture, so masks can be drawn again at any size.
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
    """Return `{"background": "plain", "things": [{"cell": [0, 1], "shape": "circle", ...}]}`."""
    return {"background": scene.background, "things": [asdict(t) | {"cell": list(t.cell)} for t in scene.things]}


def scene_from_json(data: dict[str, Any]) -> Scene:
    """
    Read a scene from the output of [`scene_to_json`].

    Raises:
        ValueError: A field is missing, a value is unknown, or two things share a cell.
    """
    try:
        background = _known(data["background"], BACKGROUNDS, "background")
        things = [_thing(tuple(t["cell"]), *(t[name] for name in VALUES)) for t in data["things"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"Got {data!r}, expected a scene as scene_to_json writes it ({error!r}).") from None
    if len({thing.cell for thing in things}) < len(things):
        raise ValueError(f"Got {data!r} with two things in one cell, expected at most one.")
    return Scene(background, tuple(sorted(things)))


@cache  # 4,608 things exist, so a truth of 100,000 pictures shares them
def _thing(cell: tuple[int, int], *look: str) -> Thing:
    _known(cell, CELLS, "cell")
    return Thing(cell, *(_known(value, VALUES[name], name) for name, value in zip(VALUES, look, strict=True)))


def _known(value: Any, values: Sequence[Any], name: str) -> Any:
    if value not in values:
        raise ValueError(f"Got {name} {value!r}, expected one of {', '.join(map(str, values))}.")
    return value


def denotation_to_row(denotes: Denotation) -> dict[str, Any]:
    """Return a denotation as JSON: the cells of its `things`, its `cells`, and `background`."""
    return {
        "things": [list(thing.cell) for thing in denotes.things],
        "cells": [list(cell) for cell in denotes.cells],
        "background": denotes.background,
    }


def denotation_from_row(scene: Scene, row: dict[str, Any]) -> Denotation:
    """
    Read a denotation from the output of [`denotation_to_row`].

    Args:
        scene (`Scene`): The reference scene.
        row (`dict[str, Any]`): With `things`, `cells` and `background`.

    Raises:
        ValueError: A cell of `things` is empty in the scene.
    """
    things = [thing for cell in row["things"] if (thing := scene.at(tuple(cell)))]
    if len(things) < len(row["things"]):
        raise ValueError(f"Got a noun phrase for things in cells {row['things']}, expected cells of {scene.things}.")
    return Denotation(tuple(things), tuple((y, x) for y, x in row["cells"]), row["background"])


def role(query: SceneQuery, denotes: Denotation) -> str:
    """
    Return the role of a noun phrase in a query.

    Returns:
        `str`: `new` if it denotes nothing in the reference picture; `kept` if the text leaves it unchanged; the kind
        of edit if it is edited (`background` for the background); `landmark` if it only helps to find something.
    """
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
    """Return the pixels of the reference picture that a noun phrase denotes: `(size, size)` booleans."""
    mask = np.zeros((size, size), dtype=bool)
    for thing in denotes.things:
        mask |= thing_mask(scene, nuisance, thing, size)
    for cell in denotes.cells:
        mask |= cell_mask(cell, size)
    if denotes.background:
        mask |= background_mask(scene, nuisance, size)
    return mask
