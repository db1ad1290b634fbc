"""What training never shows, and the test splits that ask for it.

Three things are held out of training: compositions of more than two edits, some pairs of shape and colour, and some
words. Each has a split of its own, in which all else is as in training; `iid` has nothing that is new but the scenes.
Validation is of `iid` alone: whoever tunes on what is held out measures something else.

A split also says which texts a reference scene is asked with: which of its few single edits, called by letters, each
text composes. So a text's partial and excessive edits are mostly what other texts ask of the same scene.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from contextcir.scenes.world import COLOURS, SHAPES, Thing

# One colour for each shape, all different, so that training shows every shape and every colour, just not together.
HELD_OUT_COLOUR = {shape: COLOURS[(3 * place + 1) % len(COLOURS)] for place, shape in enumerate(SHAPES)}

# One way or two to word each kind of edit, and two adjectives that captions have: what they mean is to be known from
# a text encoder, or guessed from the rest of the sentence.
HELD_OUT_WORDS = frozenset(
    ("paint", "grow", "reduce", "cover", "substitute", "insert", "delete", "shift", "show", "tiny", "spotted")
)


@dataclass(frozen=True)
class Split:
    """Which edits its texts compose, neighbours being alike, and what is new about them."""

    texts: tuple[str, ...]
    new_combinations: bool = False
    new_words: bool = False

    @property
    def letters(self) -> str:
        """The names of the single edits."""
        return "".join(sorted(set("".join(self.texts))))


SHORT = ("a", "ab", "b", "bc", "c", "ac")
SPLITS = {
    "iid": Split(SHORT),
    "combinations": Split(SHORT, new_combinations=True),
    "wordings": Split(SHORT, new_words=True),
    "longer": Split(("abcde", "abcd", "abce", "abde", "acde", "bcde")),
    "three": Split(("abc", "abd", "acd", "ace", "bcd", "bce")),
}


def is_held_out(thing: Thing) -> bool:
    """Whether training shows no thing of this shape in this colour."""
    return HELD_OUT_COLOUR[thing.shape] == thing.colour


def any_held_out(things: Iterable[Thing]) -> bool:
    """Whether training shows no scene with these things."""
    return any(map(is_held_out, things))


def has_held_out_word(text: str) -> bool:
    """Whether a text has a word that no text of training has."""
    return not HELD_OUT_WORDS.isdisjoint(re.findall("[a-z]+", text.lower()))
