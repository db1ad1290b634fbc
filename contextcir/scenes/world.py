"""The world of the scenes data: a few coloured things on a three by three grid, in front of a background.

Everything that can be asked of a picture is a field of a [`Scene`], so that retrieval and grounding have exact ground
truth; everything that cannot (jitter, noise) is nuisance and lives in `render`. A scene is immutable and hashable:
two pictures show the same thing if and only if their scenes are equal.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond", "ring")
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black")
SIZES = ("small", "large")
PATTERNS = ("plain", "striped", "dotted", "checked")
VALUES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "pattern": PATTERNS}  # of a thing, in its order
BACKGROUNDS = ("plain", "meadow", "beach", "sea", "brick", "night", "wood")

GRID = 3
CELLS = tuple((row, column) for row in range(GRID) for column in range(GRID))
MIN_OBJECTS, MAX_OBJECTS = 2, 6


@dataclass(frozen=True, order=True)
class Thing:
    """One object: where it is (`cell`, row and column counted from the top left) and what it looks like."""

    cell: tuple[int, int]
    shape: str
    colour: str
    size: str
    pattern: str

    def look(self) -> tuple[str, str, str, str]:
        """What it looks like, wherever it is."""
        return self.shape, self.colour, self.size, self.pattern


@dataclass(frozen=True)
class Scene:
    """A background and its things, sorted by cell; no two things share a cell."""

    background: str
    things: tuple[Thing, ...]

    def at(self, cell: tuple[int, int]) -> Thing | None:
        """The thing in a cell, if there is one."""
        return next((thing for thing in self.things if thing.cell == cell), None)

    def free_cells(self) -> list[tuple[int, int]]:
        """The cells that hold nothing."""
        taken = {thing.cell for thing in self.things}
        return [cell for cell in CELLS if cell not in taken]

    def with_things(self, things) -> Scene:
        """The same background with other things."""
        return replace(self, things=tuple(sorted(things)))

    def changed(self, old: Thing, new: Thing | None) -> Scene:
        """The scene with `old` turned into `new`, or taken away where `new` is None."""
        kept = [thing for thing in self.things if thing != old]
        return self.with_things(kept if new is None else [*kept, new])


def sample_thing(rng: random.Random, cell: tuple[int, int]) -> Thing:
    """A random thing in a cell; half of them are plain, so that patterns are worth mentioning."""
    pattern = "plain" if rng.random() < 0.5 else rng.choice(PATTERNS[1:])
    return Thing(cell, rng.choice(SHAPES), rng.choice(COLOURS), rng.choice(SIZES), pattern)


def sample_scene(rng: random.Random, num_things: int | None = None) -> Scene:
    """A random scene of 2 to 6 things (or of exactly `num_things`)."""
    count = num_things or rng.randint(MIN_OBJECTS, MAX_OBJECTS)
    cells = rng.sample(CELLS, count)
    return Scene(rng.choice(BACKGROUNDS), tuple(sorted(sample_thing(rng, cell) for cell in cells)))
