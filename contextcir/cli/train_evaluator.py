"""The retrieval metrics that a run of `contextcir train` is evaluated by."""

from collections.abc import Iterator
from typing import Any

import torch

from contextcir.benchmarks.base import Benchmark
from contextcir.retrieval.dense import DenseRetriever


class BenchmarkEvaluator:
    """
    Model -> metrics on a benchmark.

    Args:
        benchmark (`Benchmark`): The benchmark.
        processor: The model's processor.
        autocast (`torch.dtype`, *optional*): Type of matrix products.
        batch_size (`int`): Images of one pass.

    Attributes:
        metric_names (`list[str]`): The names of the metrics.
        protocol_id (`str`): Of the benchmark.
    """

    def __init__(self, benchmark: Benchmark, processor: Any, *, autocast: torch.dtype | None, batch_size: int):
        self.benchmark, self.processor = benchmark, processor
        self.options: dict[str, Any] = {"autocast": autocast, "batch_size": batch_size}
        self.protocol_id = benchmark.protocol_id
        self.metric_names = [f"{name}@{k}" for name, ks in benchmark.metrics.items() for k in ks]

    def __call__(self, model: Any) -> dict[str, float]:
        retriever = DenseRetriever.from_model(model, self.processor, **self.options)
        return self.benchmark.evaluate(self.benchmark.rank(retriever))

    def image_contents(self) -> Iterator[Any]:
        """Yield the images of queries and answers, which must not be among those of training."""
        gallery = self.benchmark.gallery
        ids = {target for targets in self.benchmark.relevance.values() for target in targets}
        for query in self.benchmark.queries:
            if query.reference_image is not None:
                yield query.reference_image
            elif query.reference_id is not None:
                ids.add(query.reference_id)
        for image_id in sorted(ids & gallery.positions.keys()):
            yield gallery.images[gallery.positions[image_id]]
