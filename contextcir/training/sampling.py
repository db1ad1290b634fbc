"""Batches that are composed: of one category, of families, or of distinct targets.

One idea does all three. Rows are put into groups, the groups in a random order, and that order is either cut into
batches, so that the rows of a group meet, or dealt out to the batches one by one, so that they do not. Each category
is cut or dealt out by itself, and the batches of all are shuffled.

A batch is that of all processes together: `accelerate` gives each process its part of consecutive rows. The order
depends on the seed and the epoch only, so that a resumed run and any number of processes see the same batches.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Sampler
from transformers.utils import logging

logger = logging.get_logger(__name__)


class BatchSampler(Sampler[int]):
    """
    Rows in an order whose consecutive `batch_size` are the batches.

    Args:
        groups (`Sequence`): A value for each row; equal ones are a group.
        batch_size (`int`): Rows of a batch, over all processes.
        apart (`bool`, defaults to `False`): Whether the rows of a group are in different batches. By default they are
            together, as far as they fit. A group with more rows than there are batches is cut down to that number,
            at random in each epoch.
        categories (`Sequence`, *optional*): A value for each row; those of a batch are equal.
        seed (`int`, defaults to 0): Seed of the order.

    Raises:
        ValueError: No batch can be filled.
    """

    def __init__(
        self,
        groups: Sequence[Any],
        batch_size: int,
        *,
        apart: bool = False,
        categories: Sequence[Any] | None = None,
        seed: int = 0,
    ):
        self.batch_size, self.apart, self.seed, self.epoch = batch_size, apart, seed, 0
        self._groups = _numbered(groups)
        self._parts = [np.arange(len(self._groups))]
        if categories is not None:
            numbers = _numbered(categories)
            order = np.argsort(numbers, kind="stable")
            self._parts = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
        self._counts = [self._batches_of(part) for part in self._parts]
        if not sum(self._counts):
            whose = "of one category " if categories is not None else ""
            whose += "with distinct targets " if apart else ""
            raise ValueError(
                f"{len(self._groups)} triplets do not fill one batch of {batch_size} {whose}over all processes. Lower"
                " per_device_train_batch_size."
            )
        lost = sum(len(part) for part, count in zip(self._parts, self._counts, strict=True) if not count)
        if lost:
            logger.warning(
                f"{lost} of {len(self._groups)} triplets are in no batch: their"
                f" {self._counts.count(0)} categories do not fill one of {batch_size}."
            )

    def _batches_of(self, rows: np.ndarray) -> int:
        """Return the number of batches of a category: the same in every epoch."""
        count = len(rows) // self.batch_size
        if self.apart:
            sizes = np.bincount(self._groups[rows])
            while (fitting := np.minimum(sizes, count).sum() // self.batch_size) < count:
                count = int(fitting)
        return count

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the order depends."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(self._counts) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng([self.seed, self.epoch])
        batches = [
            self._compose(rows, count, draw) for rows, count in zip(self._parts, self._counts, strict=True) if count
        ]
        yield from draw.permutation(np.concatenate(batches)).flatten().tolist()

    def _compose(self, rows: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
        """Compose the batches of a category, `(count, batch_size)`."""
        rows = draw.permutation(rows)
        groups = draw.permutation(self._groups.max() + 1)[self._groups[rows]]  # numbered at random
        order = np.argsort(groups, kind="stable")
        rows, groups = rows[order], groups[order]
        if self.apart:
            starts = np.searchsorted(groups, groups)  # place of the first of each row's group
            rows = rows[np.arange(len(rows)) - starts < count]
        rows = rows[: count * self.batch_size]
        return rows.reshape(self.batch_size, count).T if self.apart else rows.reshape(count, self.batch_size)


def batch_sampler(rows: Any, args: Any) -> BatchSampler | None:
    """
    Make the sampler that the options ask for.

    Args:
        rows: Training triplets with a length.
        args ([`~contextcir.training.training_args.CIRTrainingArguments`]): `batch_by`, `family_by`,
            `distinct_targets`, the sizes of a batch and the seed of the data.

    Returns:
        [`BatchSampler`], *optional*: `None` without these options.

    Raises:
        ValueError: There is no such column, or no batch can be filled.
    """
    if not (args.batch_by or args.family_by or args.distinct_targets):
        return None
    column = "target_id" if args.distinct_targets else args.family_by
    return BatchSampler(
        range(len(rows)) if column is None else _column(rows, column),
        args.train_batch_size * args.world_size,
        apart=args.distinct_targets,
        categories=_column(rows, args.batch_by) if args.batch_by else None,
        seed=args.seed if args.data_seed is None else args.data_seed,
    )


def _column(rows: Any, name: str) -> list[Any]:
    there = rows.column_names if isinstance(rows, datasets.Dataset) else list(rows[0])
    if name not in there:
        raise ValueError(f"There is no column {name!r} to compose batches by; there are {', '.join(there)}.")
    if isinstance(rows, datasets.Dataset):
        return list(rows[name])
    return [rows[row][name] for row in range(len(rows))]


def _numbered(values: Sequence[Any]) -> np.ndarray:
    """Return a number for each value, equal ones for equal values, in the order of their first rows."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
