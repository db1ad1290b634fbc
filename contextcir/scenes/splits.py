"""Features that are held out of training, and the test splits that measure them.

Three things are held out: compositions of more than two edits, some pairs of shape and colour, and some words. Each
has its own test split, which equals the training distribution in every other respect. `iid` has new scenes only.
Validation uses `iid` only, so that hyperparameters are not tuned on the held-out splits.

A split also defines the texts that are asked about a reference scene: each text composes some of a few single edits,
which are named by letters. So the partial and excessive results of one text are mostly the targets of other texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from contextcir.scenes.world import COLOURS, SHAPES, Thing

# A different colour for each shape: training shows every shape and every colour, but not these pairs.
HELD_OUT_COLOUR = {shape: COLOURS[(3 * place + 1) % len(COLOURS)] for place, shape in enumerate(SHAPES)}

# One or two words for each kind of edit, and two adjectives of captions. A model can know their meaning from its text
# encoder, or guess it from the rest of the sentence.
HELD_OUT_WORDS = frozenset(
    ("paint", "grow", "reduce", "cover", "substitute", "insert", "delete", "shift", "show", "tiny", "spotted")
)


@dataclass(frozen=True)
class Split:
    """The edits that each text of a split composes (neighbouring texts are similar), and what is held out."""

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
    """Return whether this pair of shape and colour is held out of training."""
    return HELD_OUT_COLOUR[thing.shape] == thing.colour


def any_held_out(things: Iterable[Thing]) -> bool:
    """Return whether any of the things has a held-out pair of shape and colour."""
    return any(map(is_held_out, things))


def has_held_out_word(text: str) -> bool:
    """Return whether a text has a word that is held out of training."""
    return not HELD_OUT_WORDS.isdisjoint(re.findall("[a-z]+", text.lower()))
