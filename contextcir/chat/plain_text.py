"""Text from a server, made safe to print: no escape sequences, no control characters, no reordering, bounded."""

import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, bidi overrides, lone surrogates, unassigned, breaks


def printable(text: str, limit: int) -> str:
    """
    Make a text visible in one line of a terminal.

    Args:
        text (`str`): Any text.
        limit (`int`): The most characters of the result; a longer one ends with "…".

    Returns:
        `str`: White space as single spaces, and what a terminal would obey or hide as an escape, such as `\\u001b`.
    """
    line = " ".join(text[: 4 * limit].split())
    shown = "".join(_escaped(char) if unicodedata.category(char) in _HIDDEN else char for char in line)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
