"""Whether two names mean the same model: servers add dates, owners and tags to the name that was asked for."""

import re

from contextcir.chat.prices import without_date

_TAG = re.compile(r":(?:latest|free)$")


def same_model(requested: str, answered: str) -> bool:
    """
    Return whether the model that answered is the requested one.

    Examples:
        >>> same_model("gpt-4o", "gpt-4o-2024-08-06"), same_model("gpt-4o", "openai/gpt-4o"), same_model("a", "a-mini")
        (True, True, False)
    """
    known = {_plain(requested)}
    if "/" not in requested:
        answered = answered.rpartition("/")[2]
    return bool(known & {_plain(answered), _plain(without_date(_TAG.sub("", answered)))})


def _plain(name: str) -> str:
    return _TAG.sub("", name.strip().lower())
