"""Remove secrets from what is written or printed: passwords and queries of addresses, keys, and options with them.

Every record, log and message that may name an address or an option goes through here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = "[secret]"

_USER = re.compile(r"(?<=://)[^\s/?#]*@")  # user and password of an address
_QUERY = re.compile(r"""(\bhttps?://[^\s?#"']+)\?[^\s#"']*""")
_KEY = re.compile(r"\bsk-[\w*.-]+|\bhf_\w{8,}|(?<=Bearer )\S+")
_OPTION = re.compile(r"password|header|(^|_)(token|secret|api_key)$")  # names of options whose values are secrets


def redact(text: str) -> str:
    """Remove users, passwords and queries of addresses, and keys, from a text."""
    return _KEY.sub("[key]", _QUERY.sub(r"\1", _USER.sub("", text)))


def redact_words(words: Sequence[str]) -> list[str]:
    """
    Remove secrets from the words of a command.

    Args:
        words (`Sequence[str]`): Such as `["--base_url", "http://me:secret@host/v1?token=x"]`.

    Returns:
        `list[str]`: As many words, to be written in a record.
    """
    shown, is_secret = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        if word.startswith("--"):
            is_secret = _is_secret(name)
            shown.append(f"{name}={SHOWN}" if is_secret and equals else redact(word))
        else:
            shown.append(SHOWN if is_secret else redact(word))
    return shown


def redact_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Remove secrets from the values of options, as JSON."""
    return {name: SHOWN if value and _is_secret(name) else _redact_value(value) for name, value in options.items()}


def _is_secret(name: str) -> bool:
    return bool(_OPTION.search(name.lstrip("-").replace("-", "_")))


def _redact_value(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return redact_options(value)
    return [_redact_value(one) for one in value] if isinstance(value, (list, tuple)) else value
