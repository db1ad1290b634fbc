"""The kinds of data that a trainer takes: data sets, lists of rows, any data set of PyTorch, and streams.

Whatever the kind, rows reach the collator with undecoded images where that can be, and rows with unreadable images can
be left out.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import datasets
import torch
from datasets.iterable_dataset import ExamplesIterable
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
    Triplets that can only be read from the beginning. Evaluation iterates over it; training reads its `rows` through a
    [`~contextcir.training.streams.StreamLoader`].

    Args:
        given: An `IterableDataset` of `datasets` or PyTorch. The order of the latter must not depend on chance, or on
            `set_epoch` alone.

    Attributes:
        rows (`datasets.IterableDataset`): The rows.
        skips_bad_images (`bool`): Whether triplets with an unreadable image are left out, with a warning for each.
        num_left_out (`int`): How many were, in this process.
    """

    def __init__(self, given: Any):
        self._given = given
        known = isinstance(given, datasets.IterableDataset)
        self.rows = given if known else datasets.IterableDataset(ExamplesIterable(partial(enumerate, given), {}))
        self.skips_bad_images = False
        self._left_out = torch.zeros((), dtype=torch.long).share_memory_()  # seen by workers

    @property
    def num_left_out(self) -> int:
        return int(self._left_out)

    @num_left_out.setter
    def num_left_out(self, number: int) -> None:
        self._left_out.fill_(number)

    def set_epoch(self, epoch: int) -> None:
        """Tell a stream of PyTorch that shuffles by itself in which pass it is."""
        if self._given is not self.rows and hasattr(self._given, "set_epoch"):
            self._given.set_epoch(epoch)

    def leaves_out(self, row: dict[str, Any]) -> bool:
        """Return whether a row is left out, and warn of it."""
        if not self.skips_bad_images or not (bad := bad_images_of(row, 0)):
            return False
        logger.warning(f"Left out: {bad[0]['error']}")
        return True

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.rows:
            if self.leaves_out(row):
                self._left_out += 1
            else:
                yield row
