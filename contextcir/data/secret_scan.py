"""Find keys, tokens and passwords in texts and in the texts of Parquet files before they are published."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_NAMES = r"(?:token|secret|passw(?:or)?d|passphrase|api[_-]?key|access[_-]?key|private[_-]?key)"
PATTERNS = {  # what it is -> how it looks; the group `value`, if any, must hold a letter and a digit
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}",
    "an API key": r"\bsk-(?P<value>[A-Za-z0-9_-]{20,})",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,})",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY",
    "a password in a URL": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"']+:(?!\*)[^\s/@\"']+@",
    "a token, secret or password": rf"""(?ix) (?<![a-z]) (?:[a-z0-9]+[_-])* {_NAMES} ["']? \s* (?: = | : | => ) \s*
        ["']? (?P<value> [^\s"'<>(){{}}\[\],;]{{12,}} )""",
    "a token, secret or password given as an option": rf"""(?ix) --[\w-]* {_NAMES} \s+ ["']?
        (?P<value> [^\s"'<>(){{}}\[\],;]{{12,}} )""",
}
_COMPILED = {kind: re.compile(pattern) for kind, pattern in PATTERNS.items()}


def find_secrets(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """
    Find what looks like a key, token or password.

    Args:
        lines (`Iterable[str]`): The lines of a text.

    Yields:
        `tuple[int, str]`: The number of the line, from 1, and what it seems to hold. The secret itself is left out.
    """
    for number, line in enumerate(lines, start=1):
        for kind, pattern in _COMPILED.items():
            if any(_is_secret(found.groupdict().get("value")) for found in pattern.finditer(line)):
                yield number, kind
                break


def _is_secret(value: str | None) -> bool:
    """Return whether a value is no plain word or number: `eos_token = text_config.eos_token` holds no secret."""
    return value is None or (any(map(str.isdigit, value)) and any(map(str.isalpha, value)))


def refuse_secrets(files: Mapping[str, Path]) -> None:
    """
    Check files before they are published: texts by lines, the texts in Parquet files by rows, and those in the header
    of safetensors files. Other files that are no UTF-8 text, such as weights and pictures, are not read to the end.

    Args:
        files (`dict[str, Path]`): Name on the Hub -> file.

    Raises:
        ValueError: A file seems to hold a secret. File, line or row, and kind are named.
    """
    for name, path in files.items():
        with open(path, "rb") as file:
            start = file.read(8192)
        parquet, safetensors = start.startswith(b"PAR1"), path.suffix == ".safetensors"
        if b"\0" in start and not parquet and not safetensors:
            continue
        try:
            with open(path, encoding="utf-8") as text:
                lines = _text_rows(path) if parquet else _header_texts(path) if safetensors else text
                found = next(find_secrets(lines), None)
        except UnicodeDecodeError:
            continue
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is damaged ({error}). Nothing was uploaded. Write it again.") from error
        if found:
            raise ValueError(
                f"{name}, {'row' if parquet else 'line'} {found[0]}, seems to hold {found[1]}. Nothing was uploaded."
                f" Remove it from {path}, and revoke it if others could have read it."
            )


def _text_rows(path: Path) -> Iterator[str]:
    """Yield the texts of each row of a Parquet file."""
    with pq.ParquetFile(path) as file:
        columns = [file.schema.column(place) for place in range(len(file.schema))]
        texts = [column.path for column in columns if column.logical_type.type == "STRING"]
        for batch in file.iter_batches(columns=texts):
            for row in batch.to_pylist():
                yield "\n".join(_strings(row))


def _header_texts(path: Path) -> Iterator[str]:
    """Yield the texts in the header of a safetensors file, such as the facts of a gallery's images."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            metadata = json.loads(file.read(min(size, path.stat().st_size))).get("__metadata__", {})
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}). Nothing was uploaded. Write it again.") from error
    for text in metadata.values():
        try:
            yield from _strings(json.loads(text))
        except ValueError:
            yield text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
