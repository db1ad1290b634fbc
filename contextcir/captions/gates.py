"""Quality gates: rules that drop unusable captions, each with a reason.

Language models refer to images that a reader does not see ("as in the second image"), repeat a caption, or return the
original caption or parts of their prompt. Every gate is a few lines that can be checked by eye; none uses a model.
Left out: checking whether a caption is true.
"""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from contextcir.chat.prompts import Prompt

# Words of a text. Real difference captions have 4 to 35; InstructCIR allows at most 12 (its table I).
MIN_WORDS = 2
MAX_WORDS = {"good4cir": 50, "instructcir": 12}
ECHO_WORDS = 8  # consecutive words of a prompt: so many are no coincidence

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
# No user types markup, links, field names, emoji or a text in quotation marks into a search box.
_NOT_PLAIN = re.compile(r"[*#<>{}\[\]|\\^~`=_]|://|\w_\w|^[\"“'].*[\"”']$|[\U0001F000-\U0001FAFF\u2600-\u27BF]")
# Phrases that chat models write around an answer, or instead of one.
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
# Followed by one of these words, a picture is an object in the image, not one of the pair.
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
    Apply the gates to the captions of one pair.

    Args:
        texts (`Sequence[str]`): The captions in their order: of duplicates, the first is kept.
        max_words (`int`): The most words of a caption.
        prompts (`Collection[Prompt]`): The prompts of the model.
        names (`Sequence[str]`): Objects of both images, of which a caption must name at least one; empty if unknown.
        original (`str`, *optional*): The caption that these are to replace.
        seen (`Collection[str]`): The captions of the images, if these were compared.

    Returns:
        `list[str | None]`: For each caption the first gate that it fails, or `None`. The gates are those of
        [`text_problem`], then `repeats_original`, `duplicate` and `names_no_object`.
    """
    earlier: set[str] = set()
    known = {stem for name in names for stem in _stems(name) - _NO_NAME}
    verdicts = []
    for text in texts:
        plain = _plain(text)
        problem = text_problem(text, max_words, prompts, seen)
        if problem:
            pass
        elif original and plain == _plain(original):
            problem = "repeats_original"
        elif plain in earlier:
            problem = "duplicate"
        elif known and known.isdisjoint(_stems(text)):
            problem = "names_no_object"
        else:
            earlier.add(plain)
        verdicts.append(problem)
    return verdicts


def text_problem(
    text: str, max_words: int, prompts: Collection[Prompt] = (), captions: Collection[str] = ()
) -> str | None:
    """
    Return the first gate that a single text fails, or `None`.

    Args:
        text (`str`): The modification text.
        max_words (`int`): The most words.
        prompts (`Collection[Prompt]`): The prompts of the model.
        captions (`Collection[str]`): The captions that the model compared.

    Returns:
        `str`, *optional*: `length`; `names_images` (refers to the images of the pair); `echoes_prompt` (repeats eight
        consecutive words of a prompt); `not_plain` (markup, links, emoji); `no_request` (phrases around an answer, or
        that nothing differs); or `echoes_caption` (is one of the captions).
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
    """Return whether a text has eight consecutive words of a prompt."""
    words = _plain(text).split()
    grams = {" ".join(words[start : start + ECHO_WORDS]) for start in range(len(words) - ECHO_WORDS + 1)}
    return any(grams & _grams(prompt.text) for prompt in prompts)


def same_words(text: str, other: str) -> bool:
    """Return whether two texts differ only in capitals and punctuation."""
    return _plain(text) == _plain(other)


def is_empty(text: str) -> bool:
    """Return whether a text has no word."""
    return not _plain(text)


@lru_cache(maxsize=16)
def _grams(text: str) -> frozenset[str]:
    words = _plain(text).split()
    return frozenset(" ".join(words[start : start + ECHO_WORDS]) for start in range(len(words)))


def _plain(text: str) -> str:
    """Return the words of a text, without capitals and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _stems(text: str) -> set[str]:
    """Return the words of a text without plural endings."""
    words = _plain(text).split()
    return {re.sub(r"(?<=[xs])es$|(?<=[cs]h)es$|(?<=\w\w[^s])s$", "", re.sub(r"ies$", "y", word)) for word in words}
