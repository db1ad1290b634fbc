"""Look through training triplets once, for faults that training would not show: it learns them.

Only images of the same number of bytes are read and compared, so that a data set of any size takes seconds.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import datasets
import pyarrow.compute as pc
from transformers.utils import logging

from contextcir.data.content import content_digest, image_content
from contextcir.data.images import ImageError, unpacked
from contextcir.data.triplet_images import undecoded_images
from contextcir.data.triplets import IMAGE_COLUMNS

logger = logging.get_logger(__name__)

WARN_ABOVE = 0.01
FAULTS = {  # name -> what is wrong, and what to do
    "target_is_reference": "have their reference image as the target. Look at how the pairs were made",
    "repeated": "repeat the images and the text of an earlier one. Remove them, or use data_weights on purpose",
    "empty_texts": "have no text. Remove them or describe the change",
    "in_benchmark": "show an image of a query or an answer of the benchmark, which then measures memory. Remove them",
}


def audit(triplets: Any, benchmark: Iterable[Any] = ()) -> dict[str, int]:
    """
    Count triplets with faults.

    Args:
        triplets (`datasets.Dataset` or `Sequence[dict]`): As from [`~contextcir.data.triplets.load_triplets`].
        benchmark (`Iterable`): Images of the queries and answers of a benchmark, in any form that
            [`~contextcir.data.images.load_image`] reads. They are compared by content.

    Returns:
        `dict[str, int]`: `rows`; and of these `target_is_reference`, `repeated` (images and text of an earlier row),
        `empty_texts` and `in_benchmark`.
    """
    if isinstance(triplets, datasets.Dataset):
        triplets = undecoded_images(triplets)
    sizes: dict[int, set[bytes]] = {}  # number of bytes -> digests of images of the benchmark
    for image in benchmark:
        content = image_content(image)
        if isinstance(content, bytes):
            sizes.setdefault(len(content), set()).add(content_digest(content))
    counts = dict.fromkeys(("rows", *FAULTS), 0)
    seen: set[tuple[Any, ...]] = set()
    shown: dict[Any, bool] = {}  # image id -> whether the benchmark has it
    for row, (ids, text, lengths) in enumerate(zip(*_columns(triplets), strict=True)):
        counts["rows"] += 1
        counts["empty_texts"] += not text or text.isspace()
        counts["repeated"] += (*ids, text) in seen
        seen.add((*ids, text))
        equal = ids[0] == ids[1]
        if not equal and lengths[0] is not None and lengths[0] == lengths[1]:
            equal = len({_digest(triplets[row][column]) for column in IMAGE_COLUMNS} - {None}) == 1
        counts["target_is_reference"] += equal
        for column, image_id, length in zip(IMAGE_COLUMNS, ids, lengths, strict=True):
            if image_id not in shown:
                shown[image_id] = length in sizes and _digest(triplets[row][column]) in sizes[length]
        counts["in_benchmark"] += any(shown[image_id] for image_id in ids)
    return counts


def judge(counts: dict[str, int]) -> None:
    """
    Warn of faults in more than 1 % of the triplets.

    Raises:
        ValueError: All triplets have one.
    """
    rows = counts["rows"]
    for name, meaning in FAULTS.items():
        if rows and counts[name] == rows:
            raise ValueError(f"{name}: all {rows} training triplets {meaning}.")
        if counts[name] > WARN_ABOVE * rows:
            logger.warning(f"{name}: {counts[name]} of {rows} training triplets {meaning}.")


def _columns(triplets: Any) -> Iterator[Iterable[Any]]:
    """Yield, for all rows, the ids of both images, the text, and the numbers of bytes of both images."""
    if isinstance(triplets, datasets.Dataset) and triplets.format["type"] is None:
        yield zip(triplets["reference_id"], triplets["target_id"], strict=True)
        yield triplets["modification_text"]
        yield zip(*(_stored_lengths(triplets, column) for column in IMAGE_COLUMNS), strict=True)
        return
    rows = [triplets[row] for row in range(len(triplets))]
    yield [(row["reference_id"], row["target_id"]) for row in rows]
    yield [row["modification_text"] for row in rows]
    yield [tuple(_length(unpacked(row[column])) for column in IMAGE_COLUMNS) for row in rows]


def _stored_lengths(triplets: datasets.Dataset, column: str) -> Iterator[int | None]:
    for table in triplets.select_columns([column]).with_format("arrow").iter(1000):
        images = table.column(column)
        lengths = pc.binary_length(pc.struct_field(images, "bytes")).to_pylist()
        paths = pc.struct_field(images, "path").to_pylist()
        yield from (
            length if length is not None else _length(path) for length, path in zip(lengths, paths, strict=True)
        )


def _length(image: Any) -> int | None:
    """Return the number of bytes of an encoded image; `None` for pixels and missing files."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return len(image)
    try:
        return os.stat(image).st_size
    except (OSError, TypeError, ValueError):
        return None


def _digest(image: Any) -> bytes | None:
    try:
        return content_digest(image_content(image))
    except ImageError:  # which training reports, or leaves out
        return None
