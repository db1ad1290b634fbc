"""Annotation files and image folders in the layouts that benchmarks are published in: read, or named as missing."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def find_root(root: str | Path, name: str) -> Path:
    """The folder of one benchmark: `root/name` where that exists, else `root` itself."""
    return Path(root, name) if Path(root, name).is_dir() else Path(root)


def check_choice(benchmark: str, what: str, value: str, valid: Sequence[str]) -> None:
    """Raise a `ValueError` that lists the valid splits, protocols or texts of a benchmark."""
    if value not in valid:
        raise ValueError(f"{benchmark} has the {what} {', '.join(valid)}, got {value!r}.")


def check_counts(what: str, found: Mapping[str, int], official: Mapping[str, int]) -> None:
    """Raise a `ValueError` where counts, such as of `queries` and `images`, are not those of the official release."""
    if dict(found) != dict(official):
        got, expected = (
            " and ".join(f"{count:,} {kind}" for kind, count in counts.items()) for counts in (found, official)
        )
        raise ValueError(
            f"{what} has {got}, the official release {expected}. Numbers on anything else do not compare."
        )


def read_json(path: Path) -> Any:
    """
    Read an annotation file.

    Raises:
        `ValueError`: The file is missing, or is not JSON (the message names the place).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing. Download the annotations, or check the path.") from None
    except ValueError as error:  # malformed, or not text
        raise ValueError(f"{path} is not JSON: {error}. Download it again.") from error


def read_rows(path: Path, keys: Iterable[str]) -> list[dict[str, Any]]:
    """
    Read an annotation file that is a list of objects.

    Raises:
        `ValueError`: as [`read_json`], or an entry has not these keys at least (its number and what it is are named).
    """
    rows, keys = read_json(path), set(keys)
    for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
        if not isinstance(rows, list) or not isinstance(row, dict) or not keys <= row.keys():
            raise ValueError(
                f"{path}, row {number}: expected a list of objects with {', '.join(sorted(keys))}, as published, got"
                f" {repr(row)[:200]}."
            )
    return rows


def images_on_disk(paths: Sequence[Path], what: str) -> list[str]:
    """
    The paths of images, each of which is there.

    Raises:
        `ValueError`: Some are not: how many, and the first of them.
    """
    there = {path for folder in {path.parent for path in paths} if folder.is_dir() for path in folder.iterdir()}
    if missing := [path for path in paths if path not in there]:
        first = ", ".join(map(str, missing[:3]))
        raise ValueError(f"{what}: {len(missing):,} of {len(paths):,} images are missing, such as {first}.")
    return list(map(str, paths))
