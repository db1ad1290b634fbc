"""Quality gates: the captions of a pair that a data set is better off without, each with the reason.

Language models write a request that only makes sense to somebody who sees both images ("as in the second image"), say
a thing twice, hand back the caption that was to be rewritten, or parts of their own instructions. Every gate is a few
lines that can be checked by eye; none asks a model. Left out: judging whether a caption is true.
"""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from contextcir.captions.prompts import Prompt

# Words of a text. Real difference captions have 4 to 35; InstructCIR asks for at most 12 (its table I).
MIN_WORDS = 2
MAX_WORDS = {"good4cir": 50, "instructcir": 12}
ECHO_WORDS = 8  # so many words in a row that stand in a prompt are no coincidence

GATES = ("length", "names_images", "echoes_prompt", "repeats_original", "duplicate", "names_no_object")

_IMAGE = r"(?:images?|pictures?|photos?|photographs?)"
_NAMES_IMAGES = re.compile(
    rf"""\b(?:
        (?:first|second|1st|2nd|reference|target|source|query|original|initial|other|given|new|both|two|these)\s+{_IMAGE}
        | (?:reference|target)\s+(?:list|caption|description)
        | (?:image|picture|photo)\s*\#?(?:1|2|one|two)\b
        | (?:image|caption)\s+(?-i:[AB])\b
    )""",
    re.VERBOSE | re.IGNORECASE,
)
# What follows can hang on a wall or stand on a shelf; the pair itself cannot.
_THINGS = re.compile(r"\s+(?:frames?|books?|albums?|windows?|rails?|on|hanging|above|mounted)\b", re.IGNORECASE)
_NO_NAME = frozenset("a an the of with and or in on at to for from by its their some pair set piece group".split())


def gate_captions(
    texts: Sequence[str],
    *,
    max_words: int,
    prompts: Collection[Prompt] = (),
    names: Sequence[str] = (),
    original: str | None = None,
) -> list[str | None]:
    """
    Judge the captions of one pair.

    Args:
        texts (`Sequence[str]`): In their order: of two that say the same, the first stays.
        max_words (`int`): Longest that is kept.
        prompts (`Collection[Prompt]`): What the model was told.
        names (`Sequence[str]`): Objects of both images, of which a caption names at least one; empty: unknown.
        original (`str`, *optional*): The caption that these are to be better than.

    Returns:
        `list[str | None]`: For each the gate that it fails first, in the order of `GATES`, or `None`.
    """
    seen, known = set(), {stem for name in names for stem in _stems(name) - _NO_NAME}
    verdicts = []
    for text in texts:
        plain = _plain(text)
        problem = text_problem(text, max_words, prompts)
        if problem is None and original and plain == _plain(original):
            problem = "repeats_original"
        if problem is None and plain in seen:
            problem = "duplicate"
        if problem is None and known and known.isdisjoint(_stems(text)):
            problem = "names_no_object"
        if problem is None:
            seen.add(plain)
        verdicts.append(problem)
    return verdicts


def text_problem(text: str, max_words: int, prompts: Collection[Prompt] = ()) -> str | None:
    """The gate that a text fails whatever stands beside it: its length, and words that no user would write."""
    if not MIN_WORDS <= len(text.split()) <= max_words:
        return "length"
    if any(not _THINGS.match(text, found.end()) for found in _NAMES_IMAGES.finditer(text)):
        return "names_images"
    words = _plain(text).split()
    grams = {" ".join(words[start : start + ECHO_WORDS]) for start in range(len(words) - ECHO_WORDS + 1)}
    if re.search(r"</?[a-z]+_[a-z]+>", text) or any(grams & _grams(prompt.text) for prompt in prompts):
        return "echoes_prompt"
    return None


@lru_cache(maxsize=16)
def _grams(text: str) -> frozenset[str]:
    words = _plain(text).split()
    return frozenset(" ".join(words[start : start + ECHO_WORDS]) for start in range(len(words)))


def _plain(text: str) -> str:
    """Words only: what two texts have in common that say the same."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _stems(text: str) -> set[str]:
    """The words of a text without the endings of plurals."""
    words = _plain(text).split()
    return {re.sub(r"(?<=[xs])es$|(?<=[cs]h)es$|(?<=\w\w[^s])s$", "", re.sub(r"ies$", "y", word)) for word in words}
