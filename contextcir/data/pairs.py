"""Pairs of images without a difference caption: read from files, sampled at random, or mined by similarity.

[`read_pairs`] reads good4cir's JSON list (or its single object), JSON Lines, CSV, or a `datasets` data set with Image
columns. [`sample_pairs`] samples pairs within groups, like the training data of InstructCIR (section II-A).
[`mine_pairs`] finds images that are similar but not the same, like good4cir for Hotel-CIR (ConText-CIR, section 4.1).
The papers give no bounds; the defaults are ours.

Images are not opened here. An image that cannot be read, a repeated pair, and a pair of an image with itself are left
to the caller: they cost only that pair.
"""

import csv
import hashlib
import json
import math
import os
import random
from bisect import bisect_right
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from contextcir.data.dataset_cache import cache_of
from contextcir.data.images import is_url

REQUIRED = ("reference_image", "target_image")
OPTIONAL = ("reference_id", "target_id", "original_caption", "similarity")
MAX_SIMILARITIES = 16_000_000  # in memory while pairs are mined: 64 MB


@dataclass(frozen=True)
class Pair:
    """
    A pair of images.

    Args:
        reference_image: A source for [`~contextcir.data.images.load_image`], or a URL.
        target_image: Likewise.
        reference_id (`str`): Id of the image. Equal ids mean equal images.
        target_id (`str`): Likewise.
        original_caption (`str`, *optional*): Text of an existing data set for the pair.
        similarity (`float`, *optional*): Cosine similarity by which the pair was found.
    """

    reference_image: Any
    target_image: Any
    reference_id: str
    target_id: str
    original_caption: str | None = None
    similarity: float | None = None

    @property
    def id(self) -> str:
        """`str`: 16 hex digits that depend only on both ids."""
        return _digest(f"{self.reference_id}\0{self.target_id}".encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def read_pairs(name_or_path: str, *, split: str = "train", allow_urls: bool = False) -> Sequence[Pair]:
    """
    Read pairs.

    Args:
        name_or_path (`str`): A `.json`, `.jsonl` or `.csv` file, with image paths relative to its folder; or the
            folder or Hub name of a data set. There, `modification_text` replaces a missing `original_caption`, and
            other columns are ignored.
        split (`str`, defaults to `"train"`): Split of a data set.
        allow_urls (`bool`, defaults to `False`): Whether images may be URLs.

    Returns:
        `Sequence[Pair]`: In the order of the file. Pairs of a data set are read on access.

    Raises:
        `ValueError`: The file is missing, empty or malformed (the line is named), a column is missing or unknown, a
            value has the wrong type, or an image is a URL and `allow_urls` is `False`.
    """
    path = Path(name_or_path)
    reader = {".json": _json_rows, ".jsonl": _json_lines_rows, ".csv": _csv_rows}.get(path.suffix.lower())
    if reader is None or path.is_dir():
        return _DatasetPairs(name_or_path, split)
    try:
        pairs = [_pair(row, where, path.parent, allow_urls) for where, row in reader(path)]
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist. Check the path of the pairs.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}.") from error
    if not pairs:
        raise ValueError(f"{path} holds no pairs. Give each a {REQUIRED[0]} and a {REQUIRED[1]}.")
    return pairs


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    rows = _parsed(path.read_text(encoding="utf-8-sig"), path, 1)
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
        yield f"{path}, pair {number}", row


def _json_lines_rows(path: Path) -> Iterator[tuple[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}, line {number}", _parsed(line.strip(), path, number)


def _parsed(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {first_line + error.lineno - 1}: is not JSON: {error.msg}.") from error


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    count = len(reader.fieldnames or ())
                    raise ValueError(f"{where}: expected {count} fields as in the first line.")
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
        if name in ("original_caption", "similarity") and value in (None, ""):
            continue
        if name == "similarity":
            _similarity(value, where)
            continue
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}: {name} is {value!r}, expected a text.")
        if name in REQUIRED and is_url(value) and not allow_urls:
            raise ValueError(f"{where}: {name} is a URL ({value[:80]}). Download the images, or pass --allow_urls.")
    reference, target = (row[name] for name in REQUIRED)
    return Pair(
        reference if is_url(reference) else os.path.join(folder, reference),
        target if is_url(target) else os.path.join(folder, target),
        reference_id=row.get("reference_id", reference),
        target_id=row.get("target_id", target),
        original_caption=row.get("original_caption") or None,
        similarity=_similarity(row.get("similarity"), where),
    )


def _similarity(value: Any, where: str) -> float | None:
    """A cosine as JSON or CSV has it."""
    if value in (None, ""):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not -1.001 <= found <= 1.001:  # rounding may exceed 1
        raise ValueError(f"{where}: similarity is {value!r}, expected a number from -1 to 1.")
    return found


class _DatasetPairs(Sequence[Pair]):
    """Pairs of a `datasets` data set. The default id of an image is a digest of its bytes."""

    def __init__(self, name_or_path: str, split: str):
        import datasets  # here, since it takes as much memory as a whole run over a file of pairs

        try:
            data = datasets.load_dataset(name_or_path, split=split, cache_dir=cache_of(name_or_path))
        except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
            raise ValueError(
                f"{name_or_path!r} is neither a .json, .jsonl or .csv file, nor the folder or Hub name of a readable"
                f" data set ({error})."
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
        captions = data.features.get("original_caption", datasets.Value("string"))
        if captions != datasets.Value("string"):
            raise ValueError(f"{name_or_path}: original_caption is {captions}, expected a column of texts.")
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        row = self._data[index]
        row["similarity"] = _similarity(row.get("similarity"), f"row {index}")
        for side in ("reference", "target"):
            image = row[f"{side}_image"] or {"bytes": None, "path": None}  # an empty cell, an image that is unreadable
            row[f"{side}_image"] = image
            if row.get(f"{side}_id") not in (None, ""):
                row[f"{side}_id"] = str(row[f"{side}_id"])
            else:
                content = image["bytes"] if image["bytes"] is not None else (image["path"] or f"row {index}").encode()
                row[f"{side}_id"] = _digest(content)
        return Pair(**row)


def sample_pairs(groups: Sequence[Hashable], count: int, *, seed: int = 0) -> list[tuple[int, int]]:
    """
    Sample pairs of images within groups, uniformly over all such pairs.

    Args:
        groups (`Sequence[Hashable]`): The group of each image, such as its class. One group for all allows any pair.
        count (`int`): Number of pairs. An image may be in several.
        seed (`int`, defaults to 0): Seed of the sample.

    Returns:
        `list[tuple[int, int]]`: Indices of reference and target. No pair occurs twice; its reverse is another pair.

    Raises:
        `ValueError`: There are fewer pairs than `count`, or `count` is less than 1. A group of one image has no pair.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    images = list(members.values())
    ends = list(accumulate((len(group) * (len(group) - 1) for group in images), initial=0))  # pairs before each group
    if not 0 < count <= ends[-1]:
        alone = sum(len(group) == 1 for group in images)
        raise ValueError(
            f"{len(groups)} images in {len(members)} groups ({alone} of one image) have {ends[-1]} pairs, got a count"
            f" of {count}. Ask for 1 to {ends[-1]}, or use larger groups."
        )
    pairs = []
    for number in random.Random(seed).sample(range(ends[-1]), count):
        group = bisect_right(ends, number) - 1
        reference, target = divmod(number - ends[group], len(images[group]) - 1)
        pairs.append((images[group][reference], images[group][target + (target >= reference)]))
    return pairs


def mine_pairs(
    embeds: np.ndarray, *, low: float = 0.75, high: float = 0.95, pairs_per_image: int = 1, seed: int = 0
) -> list[tuple[int, int, float]]:
    """
    Pair each image with its most similar images within bounds: hard pairs, but no duplicates.

    References are visited in random order. If two images select each other, the first becomes the reference. An image
    has no pair if all its neighbours are outside the bounds or already paired with it.

    Args:
        embeds (`np.ndarray` or `torch.Tensor` of shape `(num_images, dim)`): Need not be normalised.
        low (`float`, defaults to 0.75): Lowest cosine similarity; images below have nothing in common.
        high (`float`, defaults to 0.95): Highest; a text can hardly tell images above apart.
        pairs_per_image (`int`, defaults to 1): Largest number of pairs with the same reference.
        seed (`int`, defaults to 0): Seed of the order.

    Returns:
        `list[tuple[int, int, float]]`: Indices of reference and target, and their similarity, sorted by reference. No
        two images are paired twice, in either order.

    Raises:
        `ValueError`: The embeddings are not finite, have a zero row or a wrong shape, or another argument is out of
            range.
    """
    embeds = np.asarray(embeds, dtype=np.float32)
    if embeds.ndim != 2 or not np.isfinite(embeds).all() or not embeds.any(axis=1).all():
        raise ValueError(f"Got embeddings of shape {embeds.shape}, expected (num_images, dim), finite and none zero.")
    if not -1 <= low < high <= 1 or pairs_per_image < 1:
        raise ValueError(
            f"Got low={low}, high={high}, pairs_per_image={pairs_per_image}; expected -1 <= low < high <= 1 and"
            " pairs_per_image >= 1."
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
