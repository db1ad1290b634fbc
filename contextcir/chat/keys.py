"""Keys of chat servers: where they come from, and how they are kept out of all that is written or printed."""

import os
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from contextcir.chat.exchange import ChatStop
from contextcir.runtime.secrets import redact

_SECRET_NAME = re.compile(r"auth|key|token|secret|password|cookie|sig", re.IGNORECASE)


def read_key(key_file: str | os.PathLike | None) -> str:
    """
    Read the key of a file, or of the environment variable `OPENAI_API_KEY`, where it may be missing.

    Raises:
        [`~contextcir.chat.exchange.ChatStop`]: The file holds no key.
    """
    if key_file is None:
        return os.environ.get("OPENAI_API_KEY", "").strip()
    try:
        with open(key_file, encoding="utf-8") as file:
            key = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ChatStop("key", f"The file {key_file} cannot be read ({type(error).__name__}).") from None
    if len(key.split()) != 1:
        raise ChatStop("key", f"The file {key_file} must hold one key and nothing else.")
    return key


def secrets_of(base_url: str, key: str, headers: Mapping[str, str]) -> list[str]:
    """Return the key, the password of an address, and what its query and the headers name as secret; long ones first,
    since one may contain another."""
    parts = urlsplit(base_url)
    named = [*headers.items(), *parse_qsl(parts.query)]
    values = [value for name, value in named if _SECRET_NAME.search(name)]
    return sorted({value for value in (key, parts.password, *values) if value}, key=len, reverse=True)


def conceal(text: str, secrets: list[str]) -> str:
    """Replace known secrets by `[key]`, and what looks like one as in [`~contextcir.runtime.secrets.redact`]."""
    for secret in secrets:
        text = text.replace(secret, "[key]")
    return redact(text)
