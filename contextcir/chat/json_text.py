"""Find JSON in what a model wrote: after its reasoning, between prose and code fences, with small slips.

Models reason aloud in `<think>` and the like, and may take back there what they wrote. What follows the last closing
tag is the answer; a tag that is never closed leaves none. The time grows linearly with the text: failed attempts are
counted in characters, and end the search.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from contextcir.chat.plain_text import unicode_text, unicode_values

MAX_CHARACTERS = 256 * 1024  # of an answer; 2,048 tokens are about 10,000
EFFORT = 50  # characters that failed attempts may look at, for each character of the text

_NAMES = "think|thinking|thought|reasoning|reflection|scratchpad"
_OPEN = re.compile(rf"<(?:{_NAMES})>|\[THINK\]|◁think▷|<\|channel\|>\s*analysis", re.IGNORECASE)
_CLOSED = re.compile(rf"</(?:{_NAMES})>|\[/THINK\]|◁/think▷|<\|channel\|>\s*final\s*<\|message\|>", re.IGNORECASE)
# A string, which is kept, or a comma before a closing bracket. A string may lack its end, so none is read twice.
_TRAILING_COMMA = re.compile(r'("(?:\\.?|[^"\\])*(?:"|\Z))|,(?=\s{0,100}[}\]])', re.DOTALL)
_START = re.compile(r"""\{(?=\s{0,100}["}])|\[(?=\s{0,100}["{\[\]\dtfnNI-])""")
_DECODER = json.JSONDecoder(strict=False)  # allows raw newlines in strings


class Found(NamedTuple):
    """A JSON object or list of a text, and its place there."""

    value: Any
    start: int
    end: int


def after_reasoning(text: str) -> str:
    """
    Remove the reasoning before an answer.

    Raises:
        ValueError: The reasoning does not end.

    Examples:
        >>> after_reasoning("<think>A cat? No.</think> A dog.")
        ' A dog.'
    """
    closed = 0
    for match in _CLOSED.finditer(text):
        closed = match.end()
    if _OPEN.search(text, closed):
        raise ValueError("the reasoning of the answer does not end")
    return text[closed:]


def read_json(content: bytes | str, encoding: str | None = None) -> Any:
    """
    Parse JSON in any encoding of Unicode, or in the given one. Returns text where it is none.

    Args:
        content (`bytes` or `str`): Such as the body of a response.
        encoding (`str`, *optional*): That of its header.
    """
    try:
        return unicode_values(json.loads(content))
    except RecursionError:
        return "JSON of too many levels"
    except ValueError:  # no JSON, no Unicode, or a number of more than 4,300 digits
        pass
    if isinstance(content, str):
        return unicode_text(content)
    try:
        text = content.decode(encoding or "utf-8", "replace")
    except (LookupError, ValueError):  # no such encoding, or none of texts
        text = content.decode("utf-8", "replace")
    try:
        return unicode_values(json.loads(text))
    except (ValueError, RecursionError):
        return unicode_text(text)


def json_values(text: str) -> Iterator[Found]:
    """Yield all outermost JSON objects and lists of a text, in their order."""
    position, effort = 0, EFFORT * len(text)
    while effort > 0 and (match := _START.search(text, position)):
        start = match.start()
        try:
            value, position = _DECODER.raw_decode(text, start)
            yield Found(unicode_values(value), start, position)
            continue
        except json.JSONDecodeError as error:
            effort -= 16 + error.pos - start + error.pos // 8  # the error counts the lines before it
        except (ValueError, RecursionError):  # too many digits or levels
            effort -= len(text) - start
        position = start + 1


def without_trailing_commas(text: str) -> str:
    """Remove commas before closing brackets, outside of strings."""
    return _TRAILING_COMMA.sub(lambda match: match[1] or "", text)
