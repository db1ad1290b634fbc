"""Quality gates: the captions of a pair that a data set is better off without, each with the reason.

Language models write a request that only makes sense to somebody who sees both images ("as in the second image"), say
a thing twice, hand back the caption that was to be rewritten, or parts of their own instructions. Every gate is a few
lines that can be checked by eye; none asks a model. Left out: judging whether a caption is true.
"""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from contextcir.chat.prompts import Prompt

# Words of a text. Real difference captions have 4 to 35; InstructCIR asks for at most 12 (its table I).
MIN_WORDS = 2
MAX_WORDS = {"good4cir": 50, "instructcir": 12}
ECHO_WORDS = 8  # so many words in a row that stand in a prompt are no coincidence

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
# No user types markup, links, names of fields or smileys into a search box, nor the answer in quotation marks.
_NOT_PLAIN = re.compile(r"[*#<>{}\[\]|\\^~`=_]|://|\w_\w|^[\"“'].*[\"”']$|[\U0001F000-\U0001FAFF\u2600-\u27BF]")
# What a chat model says around an answer, or instead of one.
_NO_REQUEST = re.compile(
    r"""^\s*(?:
        (?:sure|certainly|of\s+course|okay|differences?|changes?|answer|caption|output|request)\s*[,:!]
        | here(?:'s|\s+is|\s+are)\s+(?:the|your|a)\b
        | i(?:\s+(?:can\s?not|can't|am\s+(?:unable|sorry)|see\s+no)|'m\s+(?:sorry|unable))\b
        | as\s+an?\s+(?:ai|language)\b
        | (?:there\s+(?:is|are)\s+)?no\s+(?:visible\s+)?(?:changes?|differences?)\b
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
    seen: Collection[str] = (),
) -> list[str | None]:
    """
    Judge the captions of one pair.

    Args:
        texts (`Sequence[str]`): In their order: of two that say the same, the first stays.
        max_words (`int`): Longest that is kept.
        prompts (`Collection[Prompt]`): What the model was told.
        names (`Sequence[str]`): Objects of both images, of which a caption names at least one; empty: unknown.
        original (`str`, *optional*): The caption that these are to be better than.
        seen (`Collection[str]`): Captions of the images, where they were compared.

    Returns:
        `list[str | None]`: For each the gate that it fails first, or `None`: those of [`text_problem`], then
        `repeats_original`, `duplicate` and `names_no_object`.
    """
    said, known = set(), {stem for name in names for stem in _stems(name) - _NO_NAME}
    verdicts = []
    for text in texts:
        plain = _plain(text)
        problem = text_problem(text, max_words, prompts, seen)
        if problem is None and original and plain == _plain(original):
            problem = "repeats_original"
        if problem is None and plain in said:
            problem = "duplicate"
        if problem is None and known and known.isdisjoint(_stems(text)):
            problem = "names_no_object"
        if problem is None:
            said.add(plain)
        verdicts.append(problem)
    return verdicts


def text_problem(
    text: str, max_words: int, prompts: Collection[Prompt] = (), captions: Collection[str] = ()
) -> str | None:
    """
    The gate that a text fails whatever stands beside it, or `None`.

    Args:
        text (`str`): What to change.
        max_words (`int`): Longest that is kept; else `length`.
        prompts (`Collection[Prompt]`): What the model was told: `echoes_prompt`, where the text has eight words in a
            row of it.
        captions (`Collection[str]`): What the model was to compare: `echoes_caption`, where the text is one of them.

    Returns:
        `str`, *optional*: Beside these `not_plain` (markup, links, smileys), `no_request` (what chat models say around
        an answer, or that nothing differs) and `names_images` (which only makes sense to who sees both images).
    """
    if not MIN_WORDS <= len(text.split()) <= max_words:
        return "length"
    if any(not _THINGS.match(text, found.end()) for found in _NAMES_IMAGES.finditer(text)):
        return "names_images"
    if re.search(r"</?[a-z]+_[a-z]+>", text) or echoes_prompt(text, prompts):
        return "echoes_prompt"
    if _NOT_PLAIN.search(text):
        return "not_plain"
    if _NO_REQUEST.match(text):
        return "no_request"
    if any(same_words(text, caption) for caption in captions):
        return "echoes_caption"
    return None


def echoes_prompt(text: str, prompts: Collection[Prompt]) -> bool:
    """Whether a text has eight words in a row that stand in a prompt."""
    words = _plain(text).split()
    grams = {" ".join(words[start : start + ECHO_WORDS]) for start in range(len(words) - ECHO_WORDS + 1)}
    return any(grams & _grams(prompt.text) for prompt in prompts)


def same_words(text: str, other: str) -> bool:
    """Whether two texts differ in nothing but capitals and punctuation."""
    return _plain(text) == _plain(other)


def is_empty(text: str) -> bool:
    """Whether a text has no word."""
    return not _plain(text)


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
