"""Helpers of the benchmark modules: annotation files, image files, counts, training rows and submissions."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from contextcir.benchmarks.base import Benchmark
from contextcir.retrieval.base import Gallery, refuse_repeated


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


def read_json(path: Path) -> Any:
    """Read an annotation file. Raises a `ValueError` if it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing. Download the annotations, or check the path.") from None
    except ValueError as error:  # malformed, or not text
        raise ValueError(f"{path} is not JSON: {error}. Download it again.") from error


def read_rows(path: Path, keys: Iterable[str]) -> list[dict[str, Any]]:
    """Read an annotation file that is a list of objects, each with at least these keys. Raises a `ValueError` as
    [`read_json`] does, and with the number of a row that is something else."""
    rows, keys = read_json(path), set(keys)
    if not rows:
        raise ValueError(f"{path} holds no rows. Download it again.")
    for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
        missing = sorted(keys - row.keys()) if isinstance(rows, list) and isinstance(row, dict) else sorted(keys)
        if missing:
            raise ValueError(
                f"{path}, row {number}: expected a list of objects, got {repr(row)[:200]} without"
                f" {', '.join(missing)}. Download the official annotations."
            )
    return rows


def images_on_disk(paths: Sequence[Path], what: str) -> list[str]:
    """Check that all images exist, and return their paths. Raises a `ValueError` with the number of missing ones."""
    there = {path for folder in {path.parent for path in paths} if folder.is_dir() for path in folder.iterdir()}
    if missing := [path for path in paths if path not in there]:
        first = ", ".join(map(str, missing[:3]))
        raise ValueError(f"{what}: {len(missing):,} of {len(paths):,} images are missing, such as {first}.")
    return list(map(str, paths))


def image_gallery(ids: Sequence[str], paths: Sequence[Path], what: str, check_images: bool) -> Gallery:
    """Build a gallery of image files. With `check_images`, raise a `ValueError` if some are missing."""
    return Gallery(ids, images_on_disk(paths, what) if check_images else paths)


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
            reference, or an id that is not in the gallery or not among the candidates.
    """
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
