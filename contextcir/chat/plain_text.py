"""Make text that a server sent harmless: whole Unicode for files, and plain characters for a terminal.

A server can send any string: half of a character pair, which no file can hold; escape sequences, which recolour or
clear a terminal; marks that turn the direction of writing, so that a line reads other than it is.
"""

import re
import unicodedata
from typing import Any

MAX_PRINTED = 500  # characters

_SPACE = re.compile(r"\s+")
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode's categories of characters that show nothing


def unicode_text(text: str) -> str:
    """Join surrogate pairs, and replace each lone surrogate by U+FFFD, so that the text can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def unicode_values(value: Any) -> Any:
    """Apply [`unicode_text`] to all strings of a JSON value."""
    if isinstance(value, str):
        return unicode_text(value)
    if isinstance(value, list):
        return [unicode_values(item) for item in value]
    if isinstance(value, dict):
        return {unicode_text(key): unicode_values(item) for key, item in value.items()}
    return value


def printable(text: str, limit: int = MAX_PRINTED) -> str:
    r"""
    Return one line of at most `limit` characters that is safe to print: hidden characters as escapes.

    Examples:
        >>> printable("no \x1b[31mred\x1b[0m,\n and no \u202ebackwards")
        'no \\x1b[31mred\\x1b[0m, and no \\u202ebackwards'
    """
    text = _SPACE.sub(" ", text[: 20 * limit]).strip()[: limit + 1]
    shown = "".join(_escaped(character) for character in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _escaped(character: str) -> str:
    if unicodedata.category(character) in _HIDDEN:
        return character.encode("unicode_escape", "surrogatepass").decode()
    return character
