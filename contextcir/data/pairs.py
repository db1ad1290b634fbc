"""Pairs of images of which nobody has yet said how they differ: read from files, drawn at random, or mined.

[`read_pairs`] takes good4cir's JSON list (or its single object), JSON Lines, CSV, or a `datasets` dataset with Image
columns. [`sample_pairs`] draws pairs within groups, as InstructCIR makes its training data (section II-A);
[`mine_pairs`] looks for images that are alike and not the same, as good4cir does for Hotel-CIR (ConText-CIR, section
4.1). Neither paper states bounds; the defaults are ours.

What ends a reading: a file that is missing, malformed (the line is named) or empty, a column that is missing or
unknown, and a URL where none are allowed. What does not: images that cannot be read, a pair that stands there twice
and a pair that shows one image twice. They cost that pair only, and whoever captions the pairs counts them.
"""

import csv
import hashlib
import json
import os
import random
from bisect import bisect_right
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from contextcir.data.images import is_url

REQUIRED = ("reference_image", "target_image")
OPTIONAL = ("reference_id", "target_id", "original_caption")
MAX_SIMILARITIES = 16_000_000  # held at a time when pairs are mined: 64 MB


@dataclass(frozen=True)
class Pair:
    """
    Two images.

    Args:
        reference_image: Anything that [`~contextcir.data.images.load_image`] reads, or a URL.
        target_image: Likewise.
        reference_id (`str`): Stands for the image: equal ids are the same image.
        target_id (`str`): Likewise.
        original_caption (`str`, *optional*): What an existing data set says of the pair.
    """

    reference_image: Any
    target_image: Any
    reference_id: str
    target_id: str
    original_caption: str | None = None

    @property
    def id(self) -> str:
        """`str`: 16 digits made of both ids, so that a pair keeps its id when others come and go."""
        return hashlib.sha256(f"{self.reference_id}\0{self.target_id}".encode()).hexdigest()[:16]


def read_pairs(name_or_path: str, *, split: str = "train", allow_urls: bool = False) -> Sequence[Pair]:
    """
    Read pairs.

    Args:
        name_or_path (`str`): A `.json`, `.jsonl` or `.csv` file, whose image paths start at its folder; or a folder or
            Hub name of a dataset, of which `modification_text` is taken for the original caption where there is no
            `original_caption`, and columns of its own are let be.
        split (`str`, defaults to `"train"`): Of a dataset.
        allow_urls (`bool`, defaults to `False`): Whether images may be URLs.

    Returns:
        `Sequence[Pair]`: In their order. Those of a dataset are read from disk one at a time.

    Raises:
        `ValueError`: see the module's description.
    """
    readers = {".json": _json_rows, ".jsonl": _json_lines_rows, ".csv": _csv_rows}
    path = Path(name_or_path)
    reader = readers.get(path.suffix.lower())
    if reader is None or path.is_dir():
        return _DatasetPairs(name_or_path, split)
    try:
        pairs = [_pair(row, where, path.parent, allow_urls) for where, row in reader(path)]
    except FileNotFoundError:
        raise ValueError(f"{path} is missing. Check the path of the pairs.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}.") from error
    if not pairs:
        raise ValueError(f"{path} holds no pairs. Give each a {REQUIRED[0]} and a {REQUIRED[1]}.")
    return pairs


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: is not JSON: {error.msg}.") from error
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
        yield f"{path}, pair {number}", row


def _json_lines_rows(path: Path) -> Iterator[tuple[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}, line {number}: is not JSON: {error.msg}.") from error
                yield f"{path}, line {number}", row


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise ValueError(f"{where}: expected {len(reader.fieldnames)} fields as in the first line.")
                yield where, {name: value for name, value in row.items() if value or name in REQUIRED}
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: is not CSV: {error}.") from error


def _pair(row: Any, where: str, folder: Path, allow_urls: bool) -> Pair:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: got {repr(row)[:80]}, expected an object with {' and '.join(REQUIRED)}.")
    if missing := [name for name in REQUIRED if name not in row]:
        raise ValueError(f"{where}: there is no {missing[0]}; there are {', '.join(row) or 'no columns'}.")
    if unknown := [name for name in row if name not in (*REQUIRED, *OPTIONAL)]:
        raise ValueError(f"{where}: there is no column {unknown[0]!r}. Columns are {', '.join(REQUIRED + OPTIONAL)}.")
    for name, value in row.items():
        if not isinstance(value, str) or not value.strip():
            if not (name == "original_caption" and value in (None, "")):
                raise ValueError(f"{where}: {name} is {value!r}, expected a text.")
    images = {name: row[name] for name in REQUIRED}
    for name, value in images.items():
        if not is_url(value):
            images[name] = os.path.join(folder, value)
        elif not allow_urls:
            raise ValueError(f"{where}: {name} is a URL ({value[:80]}). Download the images, or say --allow_urls.")
    return Pair(
        **images,
        reference_id=row.get("reference_id", row["reference_image"]),
        target_id=row.get("target_id", row["target_image"]),
        original_caption=row.get("original_caption") or None,
    )


class _DatasetPairs(Sequence):
    """Pairs of a `datasets` dataset. Without ids, an image is called by the digest of its bytes."""

    def __init__(self, name_or_path: str, split: str):
        import datasets  # here, since it takes as much memory as a whole run over a file of pairs

        try:
            data = datasets.load_dataset(name_or_path, split=split)
        except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
            raise ValueError(
                f"{name_or_path!r} is neither a .json, .jsonl or .csv file, nor a folder or Hub name of a dataset that"
                f" can be read ({error})."
            ) from error
        if missing := [name for name in REQUIRED if name not in data.column_names]:
            raise ValueError(
                f"{name_or_path}: there is no column {missing[0]}; there are {', '.join(data.column_names)}."
            )
        if not len(data):
            raise ValueError(f"{name_or_path} (split {split!r}) holds no pairs.")
        if "original_caption" not in data.column_names and "modification_text" in data.column_names:
            data = data.rename_column("modification_text", "original_caption")
        data = data.select_columns([name for name in (*REQUIRED, *OPTIONAL) if name in data.column_names])
        for name in REQUIRED:
            data = data.cast_column(name, datasets.Image(decode=False))
        if "original_caption" in data.column_names and data.features["original_caption"] != datasets.Value("string"):
            raise ValueError(
                f"{name_or_path}: original_caption is {data.features['original_caption']}, expected a column of texts."
            )
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Pair:
        row = self._data[index]
        for side in ("reference", "target"):
            image = row[f"{side}_image"] or {"bytes": None, "path": None}  # an empty cell: nothing that can be read
            row[f"{side}_image"] = image
            if row.get(f"{side}_id") not in (None, ""):
                row[f"{side}_id"] = str(row[f"{side}_id"])
            else:
                content = image["bytes"] if image["bytes"] is not None else (image["path"] or f"row {index}").encode()
                row[f"{side}_id"] = hashlib.sha256(content).hexdigest()[:16]
        return Pair(**row)


def sample_pairs(groups: Sequence[Hashable], count: int, *, seed: int = 0) -> list[tuple[int, int]]:
    """
    Draw pairs of images at random, of each group in proportion to the pairs that it has.

    Args:
        groups (`Sequence[Hashable]`): The group of each image, such as its class. One for all: pairs of any two.
        count (`int`): Number of pairs. An image may be in any number of them.
        seed (`int`, defaults to 0): Same seed, same pairs.

    Returns:
        `list[tuple[int, int]]`: Places of reference and target. No pair occurs twice; its reverse is another pair.

    Raises:
        `ValueError`: There are not so many pairs. A group of one image has none.
    """
    members: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    ends = list(accumulate(len(images) * (len(images) - 1) for images in members.values()))  # pairs up to each group
    total = ends[-1] if ends else 0
    if not 0 < count <= total:
        alone = sum(len(images) == 1 for images in members.values())
        raise ValueError(
            f"{len(groups)} images in {len(members)} groups ({alone} of one image) have {total} pairs, got a count of"
            f" {count}. Ask for 1 to {total}, or pair over larger groups."
        )
    kept, starts, pairs = list(members.values()), [0, *ends], []
    for number in random.Random(seed).sample(range(total), count):
        group = bisect_right(ends, number)
        reference, target = divmod(number - starts[group], len(kept[group]) - 1)
        pairs.append((kept[group][reference], kept[group][target + (target >= reference)]))
    return pairs


def mine_pairs(
    embeds: np.ndarray, *, low: float = 0.75, high: float = 0.95, pairs_per_image: int = 1, seed: int = 0
) -> list[tuple[int, int, float]]:
    """
    Pair each image with those most like it, within bounds: hard, and not the same picture again.

    Images take turns in random order, so that which of two that want each other is the reference is a matter of
    chance. An image whose neighbours lie all outside of the bounds, or are paired with it already, has no pair.

    Args:
        embeds (`np.ndarray` or `torch.Tensor` of shape `(num_images, dim)`): Normalised here.
        low (`float`, defaults to 0.75): Least cosine similarity; below, images have nothing in common.
        high (`float`, defaults to 0.95): Largest; above, they are the same for all that a text could say.
        pairs_per_image (`int`, defaults to 1): Most pairs with an image as the reference.
        seed (`int`, defaults to 0): Same seed, same pairs.

    Returns:
        `list[tuple[int, int, float]]`: Places of reference and target, and their similarity, in order of the
        references. No two images are paired twice, in whichever order.

    Raises:
        `ValueError`: for bounds, a number of pairs, or embeddings that make no sense.
    """
    embeds = np.asarray(embeds, dtype=np.float32)
    if embeds.ndim != 2 or not np.isfinite(embeds).all() or not embeds.any(axis=1).all():
        raise ValueError(f"Got embeddings of shape {embeds.shape}, expected (num_images, dim), finite and none zero.")
    if not -1 <= low < high <= 1 or pairs_per_image < 1:
        raise ValueError(
            f"Got low={low}, high={high}, pairs_per_image={pairs_per_image}; expected -1 <= low < high <= 1 and at"
            " least one pair."
        )
    embeds = embeds / np.linalg.norm(embeds, axis=1, keepdims=True)
    order = np.random.default_rng(seed).permutation(len(embeds))
    partners: list[list[int]] = [[] for _ in embeds]
    found = []
    rows = max(1, MAX_SIMILARITIES // max(1, len(embeds)))
    for start in range(0, len(order), rows):
        block = order[start : start + rows]
        for reference, similarities in zip(block.tolist(), embeds[block] @ embeds.T, strict=True):
            similarities[(similarities < low) | (similarities > high)] = -np.inf
            similarities[[reference, *partners[reference]]] = -np.inf
            few = min(pairs_per_image, len(embeds))
            for target in np.argpartition(-similarities, few - 1)[:few].tolist():
                if similarities[target] > -np.inf:
                    partners[reference].append(target)
                    partners[target].append(reference)
                    found.append((reference, target, float(similarities[target])))
    return sorted(found)
