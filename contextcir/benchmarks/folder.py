"""A folder of your own: images, and a JSON Lines file of queries.

On disk: `images/`, with subfolders if you like, and beside it `queries.jsonl`, one query a line:

    {"reference": "beach/dog.jpg", "text": "the same dog in the snow", "targets": ["snow/dog.jpg"]}

Only `text` is required. The id of an image is its path inside `images`, with `/`. Without `reference` the text is the
whole query. `targets` are the images to find. If no line has any, rankings can be checked but not scored.
`candidates`, a few images with a target among them, are also ranked separately. `tags` are kinds of query, for results
by kind. The `id` of a query is by default the number of its line.

Recall@k counts whether any target is found; mAP@k counts all, and is reported if a query has several. The protocol id
holds a digest of the queries and of the names of the images, so different folders have different ids.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choices, read_text
from contextcir.data.folders import FileNames, images_in
from contextcir.retrieval.base import Gallery, Query

SOURCE = "your own: a folder images, and queries.jsonl beside it"
SPLITS = ("queries",)
PROTOCOLS = ("reference-excluded", "reference-kept")
STRINGS = ("text", "id", "reference")
LISTS = ("targets", "candidates", "tags")


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read a split. Arguments, returns and errors as for [`~contextcir.benchmarks.registry.BenchmarkModule.load`].
    The gallery is all images of the folder, sorted by name."""
    check_choices("folder", split=(split, SPLITS), protocol=(protocol, PROTOCOLS))
    root, excluded = Path(path), protocol == "reference-excluded"
    images = images_in(root / "images")
    rows = _read_rows(root / f"{split}.jsonl", FileNames(images), excluded)
    digest = hashlib.sha256(json.dumps([rows, images]).encode()).hexdigest()[:8]
    return [
        Benchmark(
            name="folder",
            protocol_id=f"folder/{root.resolve().name}-{digest}/{protocol}",
            gallery=Gallery(images, [str(root / "images" / name) for name in images]),
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
            exclude_reference=excluded,
        )
    ]


def _read_rows(file: Path, images: FileNames, excluded: bool) -> list[dict[str, Any]]:
    lines = read_text(file, "Write one query on each of its lines.").split("\n")  # splitlines() splits inside texts
    rows: list[dict[str, Any]] = []
    numbers: dict[str, int] = {}  # id -> line
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _read_row(line, number, images, excluded)
            if row["id"] in numbers:
                raise ValueError(f"the id {row['id']!r} is already that of line {numbers[row['id']]}.")
            if rows and bool(row["targets"]) != bool(rows[0]["targets"]):
                first = f"line {numbers[rows[0]['id']]} has {len(rows[0]['targets'])}"
                raise ValueError(f"has {len(row['targets'])} targets, {first}. Give targets on all lines or on none.")
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
        numbers[row["id"]] = number
        rows.append(row)
    if not rows:
        raise ValueError(f"{file} holds no queries. Write one on each line.")
    return rows


def _read_row(line: str, number: int, images: FileNames, excluded: bool) -> dict[str, Any]:
    """Read one query, with all keys. A `ValueError` says what is wrong with the line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise ValueError(f"got {line[:80]!r}, expected an object with a text.")
    if unknown := row.keys() - {*STRINGS, *LISTS}:
        raise ValueError(f"there is no key {min(unknown)!r}. The keys are {', '.join((*STRINGS, *LISTS))}.")
    defaults: dict[str, Any] = {"id": str(number), "reference": None, "targets": [], "candidates": [], "tags": []}
    row = defaults | row
    for key in STRINGS:
        if not (isinstance(row.get(key), str) and row[key].strip() or key == "reference" and row[key] is None):
            raise ValueError(f"{key!r} is {row.get(key)!r}, expected a string that is not blank.")
    for key in LISTS:
        if not isinstance(row[key], list) or not all(isinstance(name, str) for name in row[key]):
            raise ValueError(f"{key!r} is {row[key]!r}, expected a list of strings.")
        if key != "tags":
            row[key] = [_on_disk(name, images) for name in row[key]]
        if len(set(row[key])) < len(row[key]):
            raise ValueError(f"{key!r} holds {max(row[key], key=row[key].count)!r} more than once.")
    if row["reference"] is not None:
        row["reference"] = _on_disk(row["reference"], images)
    if excluded and row["reference"] in row["targets"]:
        raise ValueError(f"the reference {row['reference']!r} is a target, which the protocol excludes.")
    ranked = set(row["candidates"]) - {row["reference"]}
    if row["candidates"] and row["targets"] and ranked.isdisjoint(row["targets"]):
        raise ValueError(f"none of the targets {row['targets']} is among the candidates, without the reference.")
    return row


def _on_disk(name: str, images: FileNames) -> str:
    """The name of an image as the disk has it."""
    found = images.find(name)
    if found is None:
        raise ValueError(f"there is no image {name!r} in images. Paths start inside that folder.")
    return found
