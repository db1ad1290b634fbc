"""Batches of a stream, without an end, and the place in it from which a resumed run goes on.

Each worker of each process has shards of its own, which `datasets` gives it, others in each pass. When it has read
them, it begins its next pass: no row is lost at the end of a pass, and no process waits for another. All workers
together read each row once in their first passes, once in their second, and so on.

Rows are shuffled in blocks. A block is read while the one before is used, so that as many rows as a block has are in
memory. A place in the stream is the state of `datasets` before a block, and the number of rows used of it. To go on
from there, at most two blocks are read again and what the shard has before them, and no image of these is decoded.
"""

import copy
import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import datasets
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers.utils import logging

from contextcir.training.collator import STREAM_PASS
from contextcir.training.training_data import TripletStream

logger = logging.get_logger(__name__)

SHUFFLE_BUFFER = 1000  # rows of a block, by default
START: dict[str, Any] = {"pass": 0, "block": 0, "used": 0, "source": None, "left_out": 0}


class StreamLoader(DataLoader):
    """
    Batches of a stream, for one process.

    Args:
        stream ([`~contextcir.training.training_data.TripletStream`]): The stream, the same on each process.
        collate (`Callable`): Rows -> batch.
        batch_size (`int`): Rows of a batch.
        shuffle_buffer (`int`): Rows of a block; below 2 rows stay in the order that they are stored in.
        seed (`int`): Seed of the order.
        process (`tuple[int, int]`): Number of this process, and how many there are.
        num_workers (`int`): Loader processes; fewer are started if there are fewer shards.
        prefetch_factor (`int`, *optional*): Batches that each of them loads ahead.
        **options: Of `torch.utils.data.DataLoader`.
    """

    dataset: "StreamedBatches"  # type: ignore[assignment]

    def __init__(
        self,
        stream: TripletStream,
        collate: Callable[[list[dict[str, Any]]], Any],
        batch_size: int,
        *,
        shuffle_buffer: int = SHUFFLE_BUFFER,
        seed: int = 0,
        process: tuple[int, int] = (0, 1),
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        **options: Any,
    ):
        self.stream = stream
        rows = share_of(stream.rows, process, num_workers)
        num_workers = min(num_workers, rows.num_shards)
        self.fixed = {  # on which the order depends
            "num_shards": rows.num_shards,
            "shuffle_buffer": shuffle_buffer,
            "seed": seed,
            "num_workers": num_workers,
        }
        batches = StreamedBatches(
            stream,
            rows,
            collate,
            batch_size,
            block_size=max(1, shuffle_buffer),
            seed=seed,
            process=process[0],
            num_workers=max(1, num_workers),
        )
        # A generator of its own: a resumed run makes another iterator, which draws from the global one otherwise.
        super().__init__(
            batches,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor if num_workers else None,
            generator=torch.Generator(),
            **options,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        places = self.dataset.places
        for found in super().__iter__():
            if found is None:
                continue
            batch, worker, places[worker] = found
            self.dataset.turn = (worker + 1) % len(places)
            self.stream.num_left_out = sum(place["left_out"] for place in places)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the place after the last batch, as JSON."""
        return copy.deepcopy({"turn": self.dataset.turn, "places": self.dataset.places, "fixed": self.fixed})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place. A `ValueError` means that the order of rows is another one now."""
        for name, before in state["fixed"].items():
            if before != self.fixed[name]:
                raise ValueError(
                    f"The stream was read with {name} {before}, this run has {self.fixed[name]}: its batches would be"
                    " others. Resume as before, or start a new run from the weights."
                )
        self.dataset.turn, self.dataset.places = state["turn"], copy.deepcopy(state["places"])


class StreamedBatches(IterableDataset):
    """
    Batches of the rows of one worker, each with the number of the worker and the place after it.

    Args:
        stream ([`~contextcir.training.training_data.TripletStream`]): Says which rows are left out.
        rows (`datasets.IterableDataset`): The rows of this process.
        collate (`Callable`): Rows -> batch.
        batch_size (`int`): Rows of a batch.
        block_size (`int`): Rows of a block.
        seed (`int`): Seed of the order.
        process (`int`): Number of this process.
        num_workers (`int`): How many read, each a part of the shards.

    Attributes:
        places (`list[dict]`): Where each worker begins.
        turn (`int`): The worker whose batch comes first. Loaders begin with worker 0: those before the one whose turn
            it is give `None` first.
    """

    def __init__(
        self,
        stream: TripletStream,
        rows: datasets.IterableDataset,
        collate: Callable[[list[dict[str, Any]]], Any],
        batch_size: int,
        *,
        block_size: int,
        seed: int,
        process: int,
        num_workers: int,
    ):
        self.stream, self.rows, self.collate, self.batch_size = stream, rows, collate, batch_size
        self.block_size, self.seed, self.process = block_size, seed, process
        self.places, self.turn = [dict(START) for _ in range(num_workers)], 0

    def __iter__(self) -> Iterator[tuple[Any, int, dict[str, Any]] | None]:
        info = get_worker_info()
        worker = 0 if info is None else info.id
        if worker < self.turn:
            yield None
        place = dict(self.places[worker])
        rows = self._rows(place, worker)
        while True:
            batch = self.collate(list(islice(rows, self.batch_size)))
            yield batch, worker, dict(place)

    def _rows(self, place: dict[str, Any], worker: int) -> Iterator[dict[str, Any]]:
        """Yield rows without an end, and keep `place` behind the last of them."""
        while True:
            from_start, empty = place["source"] is None and not place["used"], True
            for row in self._pass(place, worker):
                if self.stream.leaves_out(row):
                    place["left_out"] += 1
                else:
                    empty = False
                    yield {**row, STREAM_PASS: place["pass"]}
            if from_start and empty:
                raise ValueError("The stream has no row that can be used. Look at its files and their images.")
            place |= START | {"pass": place["pass"] + 1, "left_out": place["left_out"]}

    def _pass(self, place: dict[str, Any], worker: int) -> Iterator[dict[str, Any]]:
        """Yield the rest of the rows of a pass."""
        self.stream.set_epoch(place["pass"])
        source = split_dataset_by_node(self.rows, 0, 1)  # a copy of them: workers share the epoch of one object
        if self.block_size > 1:  # any epoch but 0 shuffles the shards, in the same way for all processes
            source.set_epoch(1 + random.Random(f"{self.seed}/{place['pass']}").getrandbits(31))
        if place["source"] is not None:
            source.load_state_dict(place["source"])
        rows = iter(source)
        block = list(islice(rows, self.block_size))
        while block:
            after = source.state_dict()
            order = f"{self.seed}/{place['pass']}/{self.process}/{worker}/{place['block']}"
            random.Random(order).shuffle(block)
            del block[len(block) - place["used"] :]
            following = list(islice(rows, place["used"]))
            while block:
                row = block.pop()
                following += islice(rows, 1)
                place["used"] += 1
                yield row
            block = following
            place |= {"block": place["block"] + 1, "used": 0, "source": after}


def share_of(rows: datasets.IterableDataset, process: tuple[int, int], num_workers: int) -> datasets.IterableDataset:
    """
    Return the rows of one process.

    Processes and workers read whole shards: files, or where these are too few, row groups of Parquet files. With fewer
    shards than processes, each process reads all rows and keeps its part.

    Args:
        rows (`datasets.IterableDataset`): All rows.
        process (`tuple[int, int]`): Number of this process, and how many there are.
        num_workers (`int`): Loader processes of each.
    """
    number, processes = process
    wanted = processes * max(1, num_workers)
    if rows.num_shards < wanted:
        rows = rows.reshard()
    shards = rows.num_shards
    if shards < wanted and number == 0:
        each = "each process reads all rows and keeps its part of them" if shards < processes else "some stay idle"
        logger.warning(
            f"The stream has {shards} shards for {processes} processes with {max(1, num_workers)} readers each:"
            f" {each}. Write it as at least {wanted} files, or lower dataloader_num_workers."
        )
    elif shards % wanted and number == 0:
        logger.warning(
            f"The stream has {shards} shards, no multiple of {wanted} processes times workers: those with fewer shards"
            " begin their next pass earlier. Over many passes all rows are seen equally often."
        )
    if processes == 1:
        return rows
    return split_dataset_by_node(rows, number, processes, strategy="shards" if shards >= processes else "examples")


def _as_it_is(found: Any) -> Any:
    return found
