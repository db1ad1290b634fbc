"""Draw scenes with Pillow, quickly and with random nuisance, and compute masks.

Pictures of the same scene differ in irrelevant properties. Each thing is shifted inside its cell, rotated, scaled and
tinted a little. The background shows another part of its tile, and light and noise vary. So copying pixels from the
reference image does not help a model. `nuisance` is the seed of all this: the same scene and nuisance give the same
pixels.

Anti-aliased stencils (one for each shape, size, pattern and angle) are cached for speed. A picture then takes one
crop, three small pastes per thing and one addition of noise.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from contextcir.scenes.world import GRID, PATTERNS, SHAPES, Cell, Scene, Thing

BASE_SIZE = 96  # all lengths below are in pixels of a picture of this size
SMALLEST_SIZE = 48  # a large thing does not fit into a smaller cell
DIAMETERS = {"small": (14, 15, 16), "large": (25, 26, 27)}
ANGLES = (-8, 0, 8)
RGB = {
    "red": (205, 35, 35),
    "blue": (40, 80, 215),
    "green": (25, 140, 50),
    "yellow": (240, 215, 40),
    "purple": (135, 45, 165),
    "orange": (240, 135, 25),
    "white": (248, 248, 248),
    "black": (18, 18, 18),
}
MARKS = dict.fromkeys(RGB, (235, 235, 235)) | {
    "yellow": (35, 35, 45),
    "orange": (35, 35, 45),
    "white": (150, 150, 160),  # grey, because black on white and white on black cannot be distinguished
    "black": (150, 150, 160),
}
OVERSAMPLE = 8
TILE = 160  # side of a background tile at the base size; each picture shows a part of it
NOISE = 6.0  # standard deviation in grey levels


@dataclass(frozen=True)
class Placement:
    """Position and form of one drawn thing: top left corner and diameter in pixels, angle in degrees."""

    thing: Thing
    left: int
    top: int
    diameter: int
    angle: int


def place(scene: Scene, nuisance: int, size: int = BASE_SIZE) -> list[Placement]:
    """Return the placements of the things of a scene for a nuisance seed."""
    if size < SMALLEST_SIZE:
        raise ValueError(f"Got size {size} for a picture of a scene, expected at least {SMALLEST_SIZE} pixels.")
    rng = random.Random(nuisance)
    placements = []
    for thing in scene.things:
        diameter = round(rng.choice(DIAMETERS[thing.size]) * size / BASE_SIZE)
        slack = size // GRID - diameter - 2  # with a margin of one pixel, so that neighbours never touch
        row, column = thing.cell
        left = column * size // GRID + 1 + rng.randint(0, slack)
        top = row * size // GRID + 1 + rng.randint(0, slack)
        placements.append(Placement(thing, left, top, diameter, rng.choice(ANGLES)))
    return placements


def render(scene: Scene, nuisance: int, size: int = BASE_SIZE) -> Image.Image:
    """Draw a scene.

    Args:
        scene (`Scene`): What to draw.
        nuisance (`int`): Seed of the irrelevant properties.
        size (`int`, *optional*, defaults to 96): Side of the picture in pixels.

    Returns:
        `PIL.Image.Image`: an RGB picture of `size` x `size` pixels.

    Raises:
        ValueError: `size` is below 48.
    """
    rng = random.Random(nuisance ^ 0x5CE9E5)
    tile = _background(scene.background, size)
    x, y = rng.randint(0, tile.width - size), rng.randint(0, tile.height - size)
    picture = tile.crop((x, y, x + size, y + size))
    for placed in place(scene, nuisance, size):
        thing = placed.thing
        silhouette, body, pattern = _stencils(thing.shape, thing.pattern, placed.diameter, placed.angle)
        corner = (placed.left - 1, placed.top - 1)
        colour = tuple(min(255, max(0, level + rng.randint(-14, 14))) for level in RGB[thing.colour])
        picture.paste((225, 225, 225) if thing.colour == "black" else (30, 30, 30), corner, silhouette)
        picture.paste(colour, corner, body)
        if pattern is not None:
            picture.paste(MARKS[thing.colour], corner, pattern)
    return _light_and_noise(picture, rng)


def thing_mask(scene: Scene, nuisance: int, thing: Thing, size: int = BASE_SIZE) -> np.ndarray:
    """Return the pixels that show a thing, outline included: `(size, size)` booleans.

    Raises:
        ValueError: The scene does not hold the thing.
    """
    for placed in place(scene, nuisance, size):
        if placed.thing == thing:
            silhouette, _, _ = _stencils(thing.shape, thing.pattern, placed.diameter, placed.angle)
            canvas = Image.new("L", (size, size))
            canvas.paste(silhouette, (placed.left - 1, placed.top - 1))
            return np.asarray(canvas) > 127
    raise ValueError(f"Got {thing}, expected one of {scene.things}.")


def background_mask(scene: Scene, nuisance: int, size: int = BASE_SIZE) -> np.ndarray:
    """Return the pixels that show no thing: `(size, size)` booleans."""
    mask = np.ones((size, size), dtype=bool)
    for thing in scene.things:
        mask &= ~thing_mask(scene, nuisance, thing, size)
    return mask


def cell_mask(cell: Cell, size: int = BASE_SIZE) -> np.ndarray:
    """Return the pixels of a cell of the grid: `(size, size)` booleans."""
    mask = np.zeros((size, size), dtype=bool)
    edges = [step * size // GRID for step in range(GRID + 1)]
    mask[edges[cell[0]] : edges[cell[0] + 1], edges[cell[1]] : edges[cell[1] + 1]] = True
    return mask


# --- stencils -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _stencils(
    shape: str, pattern: str, diameter: int, angle: int
) -> tuple[Image.Image, Image.Image, Image.Image | None]:
    """Return anti-aliased stencils of a thing with a margin of one pixel: silhouette with outline, body, pattern."""
    side = (diameter + 2) * OVERSAMPLE
    radius = diameter * OVERSAMPLE / 2
    silhouette = _shape(shape, side, radius, angle)
    body = _shape(shape, side, radius - 1.1 * OVERSAMPLE, angle, hole=0.52 * radius + 1.1 * OVERSAMPLE)
    marks = None
    if pattern != "plain":
        marks = ImageChops.multiply(body, _pattern(pattern, side))
        marks = marks.resize((diameter + 2, diameter + 2), Image.Resampling.BOX)
    small = [mask.resize((diameter + 2, diameter + 2), Image.Resampling.BOX) for mask in (silhouette, body)]
    return small[0], small[1], marks


def _shape(shape: str, side: int, radius: float, angle: int, hole: float | None = None) -> Image.Image:
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    centre = side / 2
    if shape in ("circle", "ring"):
        draw.ellipse((centre - radius, centre - radius, centre + radius, centre + radius), fill=255)
        if shape == "ring":
            hole = hole or 0.52 * radius
            draw.ellipse((centre - hole, centre - hole, centre + hole, centre + hole), fill=0)
        return mask
    turn = math.radians(angle)
    points = [
        (
            centre + radius * (x * math.cos(turn) - y * math.sin(turn)),
            centre + radius * (x * math.sin(turn) + y * math.cos(turn)),
        )
        for x, y in _outline(shape)
    ]
    draw.polygon(points, fill=255)
    return mask


def _outline(shape: str) -> list[tuple[float, float]]:
    """Return the corners of a shape on the unit disc, y pointing down."""
    if shape == "square":
        return [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]
    if shape == "diamond":
        return [(0, -1), (0.78, 0), (0, 1), (-0.78, 0)]
    if shape == "triangle":
        return [(0, -0.95), (0.95, 0.8), (-0.95, 0.8)]
    if shape == "cross":
        a, b = 0.34, 0.97
        points = [(-a, -b), (a, -b), (a, -a)]
        for _ in range(3):
            points += [(-y, x) for x, y in points[-3:]]  # a quarter turn
        return points
    if shape == "star":
        radii = [1.0, 0.42] * 5
        return [(r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5)) for i, r in enumerate(radii)]
    if shape == "heart":
        turns = [2 * math.pi * i / 60 for i in range(60)]
        return [
            (
                16 * math.sin(t) ** 3 / 17,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17 - 0.1,
            )
            for t in turns
        ]
    raise ValueError(f"Got shape {shape!r}, expected one of {', '.join(SHAPES)}.")


def _pattern(pattern: str, side: int) -> Image.Image:
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    step = 5 * OVERSAMPLE
    if pattern == "striped":
        for y in range(step // 2, side, step):
            draw.rectangle((0, y, side, y + step * 0.42), fill=255)
    elif pattern == "dotted":
        dot = step * 0.34
        for row, y in enumerate(range(0, side + step, step)):
            for x in range((row % 2) * step // 2, side + step, step):
                draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=255)
    elif pattern == "checked":
        square = 4 * OVERSAMPLE
        for row, y in enumerate(range(0, side, square)):
            for x in range((row % 2) * square, side, 2 * square):
                draw.rectangle((x, y, x + square - 1, y + square - 1), fill=255)
    else:
        raise ValueError(f"Got pattern {pattern!r}, expected one of {', '.join(PATTERNS)}.")
    return mask


# --- backgrounds, light and noise -----------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _background(kind: str, size: int) -> Image.Image:
    """Draw a textured tile that is larger than a picture. It is the same on every machine."""
    side = TILE * size // BASE_SIZE
    unit = size / BASE_SIZE
    rng = random.Random(f"background {kind}")
    ground = {
        "plain": (205, 205, 205),
        "meadow": (105, 165, 80),
        "beach": (226, 205, 160),
        "sea": (95, 150, 190),
        "brick": (172, 104, 84),
        "night": (38, 40, 78),
        "wood": (160, 120, 78),
    }[kind]
    tile = Image.new("RGB", (side, side), ground)
    draw = ImageDraw.Draw(tile)

    def shade(amount: int) -> tuple[int, ...]:
        return tuple(min(255, max(0, level + amount)) for level in ground)

    def spot() -> tuple[float, float]:
        return rng.uniform(0, side), rng.uniform(0, side)

    if kind == "meadow":
        for _ in range(900):
            x, y = spot()
            draw.line(
                (x, y, x + rng.uniform(-2, 2) * unit, y - rng.uniform(3, 7) * unit), fill=shade(rng.randint(-45, 30))
            )
    elif kind == "beach":
        for _ in range(1400):
            x, y = spot()
            draw.point((x, y), fill=shade(rng.randint(-50, 25)))
    elif kind == "sea":
        for y in range(0, side, max(1, round(8 * unit))):
            points = [(x, y + 2 * unit * math.sin(x / (5 * unit) + y)) for x in range(0, side, 2)]
            draw.line(points, fill=shade(38), width=max(1, round(unit)))
    elif kind == "brick":
        high, wide = 9 * unit, 18 * unit
        for row in range(int(side / high) + 1):
            draw.line((0, row * high, side, row * high), fill=shade(55))
            for column in range(int(side / wide) + 2):
                x = column * wide - (row % 2) * wide / 2
                draw.line((x, row * high, x, (row + 1) * high), fill=shade(55))
    elif kind == "night":
        for _ in range(110):
            x, y = spot()
            draw.ellipse((x, y, x + unit, y + unit), fill=shade(rng.randint(60, 170)))
    elif kind == "wood":
        for y in range(0, side, max(1, round(14 * unit))):
            draw.line((0, y, side, y), fill=shade(-60))
            for _ in range(6):
                x, dy = rng.uniform(0, side), rng.uniform(2, 12) * unit
                draw.line((x, y + dy, x + rng.uniform(10, 40) * unit, y + dy), fill=shade(-18))
    return tile


@lru_cache(maxsize=4)
def _noise_bank(size: int) -> np.ndarray:
    """Return grey-level noise, of which each picture uses a part: `(2 * size, 2 * size, 3)`."""
    noise = np.random.default_rng(0).normal(0.0, NOISE, (2 * size, 2 * size, 3))
    return np.rint(noise).astype(np.int16)


def _light_and_noise(picture: Image.Image, rng: random.Random) -> Image.Image:
    size = picture.width
    x, y = rng.randint(0, size), rng.randint(0, size)
    noise = _noise_bank(size)[y : y + size, x : x + size]
    levels = np.asarray(picture).astype(np.int16) + noise + rng.randint(-14, 14)
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
