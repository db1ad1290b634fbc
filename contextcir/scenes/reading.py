"""Words back to what they say: the inverse of `phrases` and `grammar.describe`, for those who answer about scenes.

A *reading* holds what a text says of one thing (`{"shape": "star", "colour": "red"}`) and nothing else, so that a
vague text fits many things and a full one fits one. Left out: referring expressions ("left of the star") and the
imperatives of modification texts, which mean nothing without their scene.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from contextcir.scenes.phrases import BACKDROPS, MARKS, WORDS
from contextcir.scenes.world import BACKGROUNDS, COLOURS, PATTERNS, SHAPES, SIZES, Scene, Thing

Reading = dict[str, Any]  # attribute of a thing -> its value, for those that a text mentions

_MEANS = {shape: ("shape", shape) for shape in SHAPES} | {colour: ("colour", colour) for colour in COLOURS}
_MEANS |= {word: ("size", size) for size in SIZES for word in WORDS[size]}
_MEANS |= {word: ("pattern", pattern) for pattern in PATTERNS for word in (*WORDS[pattern], *MARKS.get(pattern, ()))}
_BACKDROPS = {
    " ".join(word.split(" ")[-1] if word != "of bricks" else word for word in words): background
    for background in BACKGROUNDS
    for _, *words in BACKDROPS[background]
}
# The longest first: "a wall of bricks" is not "bricks" with a wall in front.
_BACKDROP = re.compile(r"\b(?:(?:an?|the) )?(" + "|".join(sorted(_BACKDROPS, key=len, reverse=True)) + r")\b", re.I)
_WRITTEN = re.compile(r',? with the words "([^"]*)" written on it')
_ARTICLE = re.compile(r"\b(?:an?|another)\b", re.I)


def read_place(text: str) -> tuple[int, int] | None:
    """The cell that "in the top left corner" or "in the middle of the left edge" names, if any."""
    words = set(_words(text))
    if not words & {"top", "bottom", "left", "right", "middle", "center"}:
        return None
    row = 0 if "top" in words else 2 if "bottom" in words else 1
    return row, 0 if "left" in words else 2 if "right" in words else 1


def read_thing(text: str) -> Reading:
    """What a text about one thing says of it; of two words for one attribute, the first counts."""
    reading: Reading = {}
    for word in _words(text):
        if word in _MEANS:
            reading.setdefault(*_MEANS[word])
    cell = read_place(text)
    return reading if cell is None else {**reading, "cell": cell}


def read_backgrounds(text: str) -> list[str]:
    """The backgrounds that a text speaks of, in its order."""
    return [_BACKDROPS[found[1].lower()] for found in _BACKDROP.finditer(text)]


def fits(thing: Thing, reading: Reading) -> bool:
    """Whether all that a reading says holds for a thing."""
    return all(getattr(thing, name) == value for name, value in reading.items())


def as_thing(reading: Reading) -> Thing | None:
    """The thing that a reading describes in full (without a word on its pattern, it is plain), or None."""
    whole = {"pattern": "plain", **reading}
    return Thing(**whole) if whole.keys() == set(Thing.__dataclass_fields__) else None


def mentions(text: str) -> list[Reading]:
    """Readings of all things that a text introduces ("a red star", "another ring"), by their shape at least."""
    introduced = _ARTICLE.split(_BACKDROP.sub(" ", text))[1:]
    return [reading for reading in map(read_thing, introduced) if "shape" in reading]


def read_caption(text: str) -> Scene | None:
    """The scene that a caption as of [`~contextcir.scenes.describe`] is about; None where it leaves anything open."""
    caption = _WRITTEN.sub("", text)
    background = next(iter(read_backgrounds(caption)), None)
    return as_scene(background, [as_thing(reading) for reading in mentions(caption)])


def as_scene(background: str | None, things: Iterable[Thing | None]) -> Scene | None:
    """A scene of a background and things, or None where one is unknown, or two things are in one place."""
    things = list(things)
    if background is None or not things or None in things or len({thing.cell for thing in things}) < len(things):
        return None
    return Scene(background, tuple(sorted(things)))


def with_writing(caption: str, words: str) -> str:
    """A caption that reports the words written across a picture."""
    return caption + f', with the words "{words}" written on it' if words else caption


def read_writing(text: str) -> str:
    """The words that captions in a text report as written across a picture, or nothing."""
    return " ".join(_WRITTEN.findall(text))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
