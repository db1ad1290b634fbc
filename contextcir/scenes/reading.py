"""Parse texts about scenes: the inverse of `phrases` and `grammar.describe`.

A *reading* holds the attributes of one thing that a text mentions (`{"shape": "star", "colour": "red"}`) and nothing
else. A vague text therefore fits many things, and a full one fits one. Left out: referring expressions ("left of the
star") and the imperatives of modification texts, which have no meaning without their scene.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from contextcir.scenes.phrases import BACKDROPS, MARKS, WORDS
from contextcir.scenes.world import BACKGROUNDS, COLOURS, PATTERNS, SHAPES, SIZES, Cell, Scene, Thing

Reading = dict[str, Any]  # attribute of a thing -> value, for the attributes that a text mentions

_MEANS = {shape: ("shape", shape) for shape in SHAPES} | {colour: ("colour", colour) for colour in COLOURS}
_MEANS |= {word: ("size", size) for size in SIZES for word in WORDS[size]}
_MEANS |= {word: ("pattern", pattern) for pattern in PATTERNS for word in (*WORDS[pattern], *MARKS.get(pattern, ()))}
_BACKDROPS = {
    " ".join(word.split(" ")[-1] if word != "of bricks" else word for word in words): background
    for background in BACKGROUNDS
    for _, *words in BACKDROPS[background]
}
# Longest first, so that "a wall of bricks" is not read as "bricks".
_BACKDROP = re.compile(r"\b(?:(?:an?|the) )?(" + "|".join(sorted(_BACKDROPS, key=len, reverse=True)) + r")\b", re.I)
_WRITTEN = re.compile(r',? with the words "([^"]*)" written on it')
_ARTICLE = re.compile(r"\b(?:an?|another)\b", re.I)


def read_place(text: str) -> Cell | None:
    """Return the cell that a text names ("in the top left corner", "in the middle of the left edge"), if any."""
    words = set(_words(text))
    if not words & {"top", "bottom", "left", "right", "middle", "center"}:
        return None
    row = 0 if "top" in words else 2 if "bottom" in words else 1
    return row, 0 if "left" in words else 2 if "right" in words else 1


def read_thing(text: str) -> Reading:
    """Read the attributes of one thing from a text. If two words give the same attribute, the first counts."""
    reading: Reading = {}
    for word in _words(text):
        if word in _MEANS:
            reading.setdefault(*_MEANS[word])
    cell = read_place(text)
    return reading if cell is None else {**reading, "cell": cell}


def read_backgrounds(text: str) -> list[str]:
    """Return the backgrounds that a text mentions, in its order."""
    return [_BACKDROPS[found[1].lower()] for found in _BACKDROP.finditer(text)]


def fits(thing: Thing, reading: Reading) -> bool:
    """Return whether a thing has all attributes of a reading."""
    return all(getattr(thing, name) == value for name, value in reading.items())


def as_thing(reading: Reading) -> Thing | None:
    """Return the thing that a reading describes in full, or `None`. A thing without a pattern is plain."""
    whole = {"pattern": "plain", **reading}
    return Thing(**whole) if whole.keys() == set(Thing.__dataclass_fields__) else None


def mentions(text: str) -> list[Reading]:
    """Return readings of all things that a text introduces with a shape ("a red star", "another ring")."""
    introduced = _ARTICLE.split(_BACKDROP.sub(" ", text))[1:]
    return [reading for reading in map(read_thing, introduced) if "shape" in reading]


def read_caption(text: str) -> Scene | None:
    """Return the scene of a caption from [`~contextcir.scenes.describe`], or `None` if it is incomplete."""
    caption = _WRITTEN.sub("", text)
    background = next(iter(read_backgrounds(caption)), None)
    return as_scene(background, [as_thing(reading) for reading in mentions(caption)])


def as_scene(background: str | None, things: Iterable[Thing | None]) -> Scene | None:
    """Return a scene, or `None` if the background or a thing is unknown, or if two things share a cell."""
    things = list(things)
    known = [thing for thing in things if thing is not None]
    if background is None or not known or len({thing.cell for thing in known}) < len(things):
        return None
    return Scene(background, tuple(sorted(known)))


def with_writing(caption: str, words: str) -> str:
    """Add the words that are written across a picture to its caption."""
    return caption + f', with the words "{words}" written on it' if words else caption


def read_writing(text: str) -> str:
    """Return the words that captions in a text report as written across a picture, or an empty string."""
    return " ".join(_WRITTEN.findall(text))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
