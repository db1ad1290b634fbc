"""Oracles for the benches: the truth about a benchmark of scenes, and an oracle in a process of its own.

Importing this file imports no torch, so that the process of an oracle starts quickly.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from contextcir.benchmarks import scenes
from contextcir.benchmarks.base import Benchmark
from contextcir.retrieval.base import Gallery
from contextcir.scenes import Scene
from contextcir.scenes.oracle import Faults, Oracle
from contextcir.scenes.truth import Truth
from research.bench.measuring import child

METRICS: dict[str, tuple[int, ...]] = {"recall": (1, 5, 10), "recall_subset": (1, 2, 3)}  # up to the depth of a trace


def load_benchmark(data: str, split: str, max_queries: int | None) -> tuple[Benchmark, dict[str, Scene]]:
    """Load the scenes benchmark, or its first queries, and the scene of each picture."""
    (benchmark,) = scenes.load(data, split)
    benchmark = benchmark.restricted_to(benchmark.queries[:max_queries])
    shown = scenes.load_scenes(data, split)
    gallery = Gallery(benchmark.gallery.ids, list(benchmark.gallery.images))  # a few kB each, and read repeatedly
    return replace(benchmark, gallery=gallery, metrics=METRICS), shown


def truth_of(benchmark: Benchmark, shown: Mapping[str, Scene]) -> Truth:
    """Return the truth that an oracle needs for a benchmark."""
    truth, gallery = Truth(), benchmark.gallery
    for id_, image in zip(gallery.ids, gallery.images, strict=True):
        truth.add(image, shown[id_], name=id_)
    for query in benchmark.queries:
        target = min(benchmark.relevance[query.id])  # all targets of a query show the same scene
        reference = shown[query.reference_id] if query.reference_id else None
        truth.add_query(query.modification_text, shown[target], reference, id=query.id)
    return truth


class OracleProcess:
    """The connection to an oracle that serves in another process. Its base URL is `url`."""

    def __init__(self, connection: Connection):
        self._connection, self.url = connection, connection.recv()

    def state(self) -> dict[str, Any]:
        """Return what the oracle has counted so far."""
        self._connection.send("state")
        return self._connection.recv()


def serve(load_truth: Callable[[], Truth], faults: Faults, seed: int, connection: Connection) -> None:
    """Serve an oracle. Send its URL and, at each request, its counts, until the connection is closed."""
    oracle = Oracle(load_truth(), faults=faults, seed=seed)
    with oracle as url:
        idle = time.process_time()
        connection.send(url)
        try:
            while connection.recv():
                state = {
                    "received": oracle.received.total(),
                    "answered": oracle.num_answered,
                    "answered_again": oracle.num_answered - len(oracle.answered),
                    "outcomes": dict(oracle.outcomes),
                    "tokens": dict(oracle.tokens),
                    "batches": dict(oracle.ends_of_batches),
                    "cpu_seconds": time.process_time() - idle,
                }
                connection.send(state)
        except EOFError:
            return


@contextmanager
def oracle_process(load_truth: Callable[[], Truth], faults: Faults, seed: int) -> Iterator[OracleProcess]:
    """
    Run an oracle in a process of its own within a context.

    Args:
        load_truth (`Callable[[], Truth]`): Is called in that process, so it can be pickled.
        faults (`Faults`): Simulated faults.
        seed (`int`): Seed of wording and faults.
    """
    with child(serve, load_truth, faults, seed) as (_, connection):
        yield OracleProcess(connection)
