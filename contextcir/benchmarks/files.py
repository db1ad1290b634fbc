"""Helpers of the benchmark modules: annotation files, counts, training rows and submissions."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.image_files import FoundImages
from contextcir.benchmarks.missing import MISSING, refuse_incomplete
from contextcir.retrieval.base import refuse_repeated

logger = logging.getLogger("contextcir")

Kind = TypeVar("Kind")


def find_root(root: str | Path, name: str) -> Path:
    """Return the folder of one benchmark: `root/name` if it exists, else `root` itself."""
    return Path(root, name) if Path(root, name).is_dir() else Path(root)


def check_choices(benchmark: str, **choices: tuple[str, Sequence[str]]) -> None:
    """Check the choices of a `load`: `check_choices("cirr", split=(split, SPLITS))`. Raises a `ValueError` that lists
    the valid values."""
    for kind, (value, valid) in choices.items():
        if value not in valid:
            raise ValueError(f"{benchmark} has the {kind}s {', '.join(valid)}, got {value!r}.")


def check_counts(what: str, found: Mapping[str, int], official: Mapping[str, int]) -> None:
    """Raise a `ValueError` if counts, such as of `queries` and `images`, are not those of the official release."""
    if dict(found) != dict(official):
        got, expected = (
            " and ".join(f"{count:,} {kind}" for kind, count in counts.items()) for counts in (found, official)
        )
        raise ValueError(f"{what} has {got}, the official release {expected}. Results would not be comparable.")


def read_text(path: Path, advice: str = "Download the annotations, or check the path.") -> str:
    """Read a text file in UTF-8, or in UTF-16 or UTF-32 as some editors of Windows write it, without the mark at its
    beginning. Raises a `ValueError`, with this advice, if it is missing, cannot be read, or is no text."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing. {advice}") from None
    except OSError as error:  # a folder, no permission, a broken disk
        raise ValueError(f"{path} cannot be read: {error.strerror}. Expected a file. {advice}") from error
    try:
        return content.decode(json.detect_encoding(content))
    except ValueError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}. {advice}") from error


def read_json(path: Path, kind: type[Kind]) -> Kind:
    """
    Read an annotation file as the type that it must have.

    Args:
        path (`Path`): The file.
        kind (`type`): Such as `list[Row]` with a `pydantic.BaseModel`. Nothing is converted: a number is no string.

    Returns:
        The content. Keys that the type does not have are ignored.

    Raises:
        `ValueError`: As for [`read_text`]; or the file is not JSON, or of another type. Then the message names the
            row, counted from 0, and the key.
    """
    text = read_text(path)
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(f"{path}{_problem(error)}") from None


def read_rows(path: Path, kind: type[Kind]) -> list[Kind]:
    """Read an annotation file that is a list of objects. Raises a `ValueError` as [`read_json`] does, and if the list
    is empty."""
    rows = read_json(path, list[kind])  # type: ignore[valid-type]
    if not rows:
        raise ValueError(f"{path} holds no rows. Download it again.")
    return rows


def _problem(error: ValidationError) -> str:
    """Describe the first fault: row, key, what was got and expected."""
    first, count = error.errors(include_url=False)[0], error.error_count()
    got, expected = json.dumps(first["input"])[:80], first["msg"].removeprefix("Input should be ")
    expected = expected.replace("a valid integer", "an integer").replace("valid ", "").replace("array", "list")
    if first["type"] == "json_invalid":
        return f" is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}. Download it again."
    place = list(first["loc"])
    row = next((number for number, key in enumerate(place) if isinstance(key, int)), None)
    where = "" if row is None else "".join(f", {key}" for key in place[:row]) + f", row {place[row]}"
    keys = ".".join(str(key) for key in place[0 if row is None else row + 1 :])
    more = f" There are {count - 1:,} more such faults." if count > 1 else ""
    where += f", key {keys!r}" if keys else ""
    if first["type"] == "missing":
        return f"{where}: it is missing, got {got}. Download the official annotations.{more}"
    if first["type"] in ("too_short", "too_long"):
        ((_, length),) = ((key, value) for key, value in first["ctx"].items() if key in ("min_length", "max_length"))
        expected = f"{length} items"
    return f"{where}: got {got}, expected {expected}. Download the official annotations.{more}"


def whole_triplets(
    triplets: Sequence[tuple[str, str, str, str]], found: FoundImages, missing: str
) -> Iterator[dict[str, Any]]:
    """
    Yield the rows of `training_triplets`.

    Args:
        triplets (`Sequence[tuple[str, str, str, str]]`): Id, text, and the ids of the reference and of the target.
        found (`FoundImages`): Their images.
        missing (`str`): `error`, or `skip` to leave out the triplets of missing images and log their number.

    Raises:
        `ValueError`: An image is missing. Or, with `skip`, no triplet is left.
    """
    check_choices(found.what, missing=(missing, MISSING))
    if missing == "error":
        found.check()
    whole = [triplet for triplet in triplets if found.missing.keys().isdisjoint(triplet[2:])]
    if found.missing and not whole:
        found.check()
    for remark in found.remarks:
        logger.warning("%s", remark)
    if found.missing:
        logger.warning(
            "%s: %s images are missing. %s of %s triplets need one and are left out.",
            *(found.what, f"{len(found.missing):,}", f"{len(triplets) - len(whole):,}", f"{len(triplets):,}"),
        )
    for id_, text, *sides in whole:
        yield triplet_row(id_, text, *((side, found.paths[side]) for side in sides))


def triplet_row(id_: str, text: str, reference: tuple[str, Path], target: tuple[str, Path]) -> dict[str, Any]:
    """Build a row of `training_triplets`. The reference and the target are each an id and a path."""
    return {
        "id": id_,
        "modification_text": text,
        "reference_id": reference[0],
        "target_id": target[0],
        "reference_image": reference[1],
        "target_image": target[1],
    }


def check_submitted(
    what: str, lists: Mapping[str, Sequence], benchmark: Benchmark, length: int, *, candidates: bool = False
) -> None:
    """
    Check the ranked lists of a submission, query id -> ids of the gallery or of the query's `candidates`.

    Raises:
        `ValueError`: A query is missing or unknown. Or a list has another length, repeats an id, holds an excluded
            reference, or an id that is not in the gallery or not among the candidates. Or queries were left out.
    """
    refuse_incomplete(benchmark)
    queries = {query.id: query for query in benchmark.queries}
    for kind, ids in (("misses", queries.keys() - lists.keys()), ("has unknown", lists.keys() - queries.keys())):
        if ids:
            raise ValueError(f"{what} {kind} keys: {len(ids):,}, such as {min(ids)!r}.")
    for key, listed in lists.items():
        query, found, where = queries[key], list(map(str, listed)), f"{what}: the ids of query {key!r}"
        refuse_repeated(found, where)
        if len(found) != length:
            raise ValueError(f"{where} are {len(found)}, expected {length}.")
        if benchmark.exclude_reference and query.reference_id in found:
            raise ValueError(f"{where} hold its reference {query.reference_id!r}, which the protocol excludes.")
        allowed = query.candidate_ids if candidates else benchmark.gallery.positions
        if foreign := [id_ for id_ in found if id_ not in allowed]:
            whole = "query's candidates" if candidates else "gallery"
            raise ValueError(f"{where} hold {foreign[0]!r}, which is not in the {whole}.")
