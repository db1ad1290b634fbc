"""A folder of your own: images, and a JSON Lines file of what to find among them.

On disk: `images/`, with folders inside if you like, and beside it `queries.jsonl`, one query a line:

    {"reference": "beach/dog.jpg", "text": "the same dog in the snow", "targets": ["snow/dog.jpg"]}

Only `text` is required. An image is called by its path inside `images`, with `/`. Without `reference` the text says
all. `targets` are what is found; where no line has any, rankings are checked and not scored. `candidates`, a few
images with a target among them, are ranked by themselves too; `tags` are kinds of query to report by; an `id` is
otherwise the number of the line.

Recall@k counts whether any target is found, mAP@k all, where some query has several. The protocol's id holds a digest
of the queries and of the images' names, so that numbers of one folder never pass for those of another.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choice
from contextcir.data.images import images_in
from contextcir.retrieval.base import Gallery, Query

CITATION = ""
SOURCE = "your own: a folder images, and queries.jsonl beside it"
SPLITS = ("queries",)
PROTOCOLS = ("reference-excluded", "reference-kept")
TEXTUAL = ("text", "id", "reference")
LISTS = ("targets", "candidates", "tags")


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """
    Read a folder.

    Args:
        path (`str`): Folder with `images` and `queries.jsonl`.
        split (`str`): There is one.
        protocol (`str`): `reference-excluded`, the reference leaves the ranking, or `reference-kept`.
        check_images (`bool`): Without effect: the gallery is what is there.

    Returns:
        `list[Benchmark]`: One. Its gallery is in the order of the images' names.

    Raises:
        `ValueError`: for an unknown split or protocol; no images or no queries; a line that is not as described above
            or names an image that is not there (the message has its number).
    """
    check_choice("folder", "splits", split, SPLITS)
    check_choice("folder", "protocols", protocol, PROTOCOLS)
    root, file = Path(path), Path(path, f"{split}.jsonl")
    images = {name: str(root / "images" / name) for name in images_in(root / "images")}
    rows = _read_rows(file, images, excluded=protocol == "reference-excluded")
    digest = hashlib.sha256(json.dumps([rows, list(images)]).encode()).hexdigest()[:8]
    metrics = {"recall": (1, 5, 10, 50)}
    if any(row["candidates"] for row in rows):
        metrics["recall_subset"] = (1, 2, 3)
    if any(len(row["targets"]) > 1 for row in rows):
        metrics["map"] = (5, 10, 25, 50)
    benchmark = Benchmark(
        name="folder",
        protocol_id=f"folder/{root.resolve().name}-{digest}/{protocol}",
        gallery=Gallery(list(images), list(images.values())),
        queries=[
            Query(
                id=row["id"],
                modification_text=row["text"],
                reference_id=row["reference"],
                candidate_ids=tuple(row["candidates"]),
                tags=tuple(row["tags"]),
            )
            for row in rows
        ],
        relevance={row["id"]: set(row["targets"]) for row in rows if row["targets"]},
        exclude_reference=protocol == "reference-excluded",
        metrics=metrics,
    )
    return [benchmark]


def _read_rows(file: Path, images: dict[str, str], excluded: bool) -> list[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # splitlines() would split inside of texts
    except FileNotFoundError:
        raise ValueError(f"{file} is missing. Write a query on each of its lines.") from None
    except ValueError as error:
        raise ValueError(f"{file} is not text in UTF-8: {error}.") from error
    rows, numbers = [], {}  # id -> line
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _read_row(line, number, images, excluded)
            if row["id"] in numbers:
                raise ValueError(f"the id {row['id']!r} is that of line {numbers[row['id']]} already.")
            if rows and bool(row["targets"]) != bool(rows[0]["targets"]):
                first = f"line {numbers[rows[0]['id']]} has {'some' if rows[0]['targets'] else 'none'}"
                raise ValueError(f"has {len(row['targets'])} targets, {first}. Give targets on all lines, or on none.")
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
        numbers[row["id"]] = number
        rows.append(row)
    if not rows:
        raise ValueError(f"{file} holds no queries. Write one on each line.")
    return rows


def _read_row(line: str, number: int, images: dict[str, str], excluded: bool) -> dict[str, Any]:
    """One query with all keys; a `ValueError` says what is wrong with it."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise ValueError(f"got {line[:80]!r}, expected an object with a text.")
    if unknown := row.keys() - {*TEXTUAL, *LISTS}:
        raise ValueError(f"there is no key {min(unknown)!r}. Keys are {', '.join((*TEXTUAL, *LISTS))}.")
    row = {"id": str(number), "reference": None, "targets": [], "candidates": [], "tags": []} | row
    for key in TEXTUAL:
        if not (isinstance(row.get(key), str) and row[key].strip() or key == "reference" and row[key] is None):
            raise ValueError(f"{key!r} is {row.get(key)!r}, expected a text.")
    for key in LISTS:
        if not isinstance(row[key], list) or not all(isinstance(name, str) for name in row[key]):
            raise ValueError(f"{key!r} is {row[key]!r}, expected a list of texts.")
        if len(set(row[key])) < len(row[key]):
            raise ValueError(f"{key!r} holds {max(row[key], key=row[key].count)!r} more than once.")
    named = [*([row["reference"]] if row["reference"] else []), *row["targets"], *row["candidates"]]
    if missing := [name for name in named if name not in images]:
        raise ValueError(f"there is no image {missing[0]!r} in images. Paths start inside of that folder.")
    if excluded and row["reference"] in row["targets"]:
        raise ValueError(f"the reference {row['reference']!r} is a target, which the protocol excludes.")
    ranked = set(row["candidates"]) - {row["reference"]}
    if row["candidates"] and row["targets"] and ranked.isdisjoint(row["targets"]):
        raise ValueError("no target is among the candidates, the reference left out. One of them has to be.")
    return row
