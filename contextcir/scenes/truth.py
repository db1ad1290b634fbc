"""Ground truth as it is published: scenes and denotations in JSON and back, and masks drawn from them.

A scene and its nuisance seed are the picture, so that masks need not be stored: they are drawn again, at any size.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from .queries import SceneQuery
from .render import BASE_SIZE, background_mask, cell_mask, thing_mask
from .trees import Denotation
from .world import BACKGROUNDS, CELLS, COLOURS, PATTERNS, SHAPES, SIZES, Scene, Thing

ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "pattern": PATTERNS}


def scene_to_json(scene: Scene) -> str:
    """A scene in JSON: `{"background": "plain", "things": [{"cell": [0, 1], "shape": "circle", "colour": "red",
    "size": "small", "pattern": "plain"}]}`."""
    return json.dumps({"background": scene.background, "things": [asdict(thing) for thing in scene.things]})


def scene_from_json(text: str) -> Scene:
    """
    The scene that [`scene_to_json`] wrote.

    Raises:
        ValueError: It is no JSON, or says something that the world does not have.
    """
    try:
        found = json.loads(text)
        things = [Thing(**thing | {"cell": tuple(thing["cell"])}) for thing in found["things"]]
        scene = Scene(found["background"], tuple(sorted(things)))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{text[:200]!r} is no scene ({type(error).__name__}: {error}).") from error
    known = scene.background in BACKGROUNDS and all(
        getattr(thing, name) in values for thing in things for name, values in ATTRIBUTES.items()
    )
    cells = [thing.cell for thing in things]
    if not known or not set(cells) <= set(CELLS) or len(set(cells)) < len(cells):
        raise ValueError(f"{text[:200]!r} holds what the world does not have, or two things in one cell.")
    return scene


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
