"""The world of the scenes data: 2 to 6 coloured things on a 3 x 3 grid, in front of a background.

A [`Scene`] holds every property that a query can mention, so retrieval and grounding have exact ground truth. Jitter,
light and noise are not part of a scene; `render` draws them from a second seed. Scenes are immutable and hashable: two
pictures show the same content if and only if their scenes are equal.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

Cell = tuple[int, int]  # row and column, counted from the top left

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond", "ring")
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black")
SIZES = ("small", "large")
PATTERNS = ("plain", "striped", "dotted", "checked")
VALUES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "pattern": PATTERNS}  # in the order of Thing's fields
BACKGROUNDS = ("plain", "meadow", "beach", "sea", "brick", "night", "wood")

GRID = 3
CELLS = tuple((row, column) for row in range(GRID) for column in range(GRID))
MIN_OBJECTS, MAX_OBJECTS = 2, 6


@dataclass(frozen=True, order=True)
class Thing:
    """One object: its `cell` and its appearance."""

    cell: Cell
    shape: str
    colour: str
    size: str
    pattern: str

    def look(self) -> tuple[str, str, str, str]:
        """Return shape, colour, size and pattern, without the cell."""
        return self.shape, self.colour, self.size, self.pattern

    def with_value(self, name: str, value: Any) -> Thing:
        """Return a copy with another value of the attribute `name`."""
        return replace(self, **{name: value})


@dataclass(frozen=True)
class Scene:
    """A background and things, sorted by cell. No two things share a cell."""

    background: str
    things: tuple[Thing, ...]

    def at(self, cell: Cell) -> Thing | None:
        """Return the thing in a cell, or `None`."""
        return next((thing for thing in self.things if thing.cell == cell), None)

    def free_cells(self) -> list[Cell]:
        """Return the cells without a thing."""
        taken = {thing.cell for thing in self.things}
        return [cell for cell in CELLS if cell not in taken]

    def with_things(self, things: Iterable[Thing]) -> Scene:
        """Return the same background with other things."""
        return replace(self, things=tuple(sorted(things)))

    def changed(self, old: Thing, new: Thing | None) -> Scene:
        """Return the scene with `old` replaced by `new`, or removed if `new` is `None`."""
        kept = [thing for thing in self.things if thing != old]
        return self.with_things(kept if new is None else [*kept, new])


def sample_thing(rng: random.Random, cell: Cell) -> Thing:
    """Sample a thing for a cell. Half of all things are plain, so that patterns are worth mentioning."""
    pattern = "plain" if rng.random() < 0.5 else rng.choice(PATTERNS[1:])
    return Thing(cell, rng.choice(SHAPES), rng.choice(COLOURS), rng.choice(SIZES), pattern)


def sample_other_value(rng: random.Random, thing: Thing, name: str) -> Thing:
    """Return the thing with a different random value of the attribute `name` (see [`VALUES`])."""
    return thing.with_value(name, rng.choice([value for value in VALUES[name] if value != getattr(thing, name)]))


def sample_scene(rng: random.Random) -> Scene:
    """Sample a scene of 2 to 6 things."""
    cells = rng.sample(CELLS, rng.randint(MIN_OBJECTS, MAX_OBJECTS))
    return Scene(rng.choice(BACKGROUNDS), tuple(sorted(sample_thing(rng, cell) for cell in cells)))
