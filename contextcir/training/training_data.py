"""The kinds of data that a trainer takes: data sets, lists of rows, any data set of PyTorch, and streams.

Whatever the kind, rows reach the collator with undecoded images where that can be, and rows with unreadable images can
be left out.
"""

from collections.abc import Iterator
from typing import Any

import datasets
import torch
from torch.utils.data import IterableDataset, Subset
from transformers.utils import logging

from contextcir.data.triplet_images import bad_images_of, find_bad_images, undecoded_images

logger = logging.get_logger(__name__)


def is_stream(data: Any) -> bool:
    """Return whether data can only be read from the beginning."""
    return isinstance(data, (datasets.IterableDataset, IterableDataset))


def as_rows(data: Any) -> Any:
    """Return the same data without what the collator cannot use: images that are decoded before their errors can be
    named, and formats other than Python's, such as NumPy's. A transform of the user (`set_transform`) stays."""
    if isinstance(data, datasets.Dataset):
        if data.format["type"] == "custom":
            return data
        return undecoded_images(data if data.format["type"] is None else data.with_format(None))
    if isinstance(data, datasets.IterableDataset):
        return TripletStream(undecoded_images(data.with_format(None)))
    return TripletStream(data) if is_stream(data) and not isinstance(data, TripletStream) else data


def without_bad_images(data: Any) -> tuple[Any, list[dict[str, Any]]]:
    """
    Leave out triplets with an image that cannot be read.

    Args:
        data: As from [`as_rows`]. Streams are checked while they are read, everything else now.

    Returns:
        `tuple`: The data, and `{"row", "id", "column", "error"}` of each bad image, none for streams.
    """
    if isinstance(data, TripletStream):
        data.skips_bad_images = True
        return data, []
    if isinstance(data, datasets.Dataset) and data.format["type"] is None:
        bad = find_bad_images(data)
    else:
        bad = [image for row in range(len(data)) for image in bad_images_of(data[row], row)]
    rows = {image["row"] for image in bad}
    good = [row for row in range(len(data)) if row not in rows]
    if not rows:
        return data, bad
    if isinstance(data, datasets.Dataset):
        return data.select(good), bad
    return [data[row] for row in good] if isinstance(data, (list, tuple)) else Subset(data, good), bad


class TripletStream(IterableDataset):
    """
    Triplets that can only be read from the beginning: an `IterableDataset` of `datasets` or PyTorch.

    Attributes:
        skips_bad_images (`bool`): Whether triplets with an unreadable image are left out, with a warning for each.
        num_left_out (`int`): How many were, so far, in all passes and workers of this process.
    """

    def __init__(self, rows: Any):
        self.rows = rows
        self.skips_bad_images = False
        self._left_out = torch.zeros((), dtype=torch.long).share_memory_()  # seen by workers

    @property
    def num_left_out(self) -> int:
        return int(self._left_out)

    def set_epoch(self, epoch: int) -> None:
        """Pass the number of the epoch on, by which a stream of `datasets` shuffles anew."""
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(self.rows):
            if self.skips_bad_images and (bad := bad_images_of(row, number)):
                self._left_out += 1
                logger.warning(f"Left out: {bad[0]['error']}")
            else:
                yield row
