"""The retrieval metrics that a run of `contextcir train` is evaluated by."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from contextcir.benchmarks.base import Benchmark
from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.dense import DenseRetriever, truncate
from contextcir.retrieval.index import Rows
from contextcir.training.matryoshka import name_at


class CutRetriever(DenseRetriever):
    """A retriever that encodes queries and gallery once, and ranks by embeddings of any `width`; by default whole."""

    width: int | None = None
    _queries: torch.Tensor | None = None

    def encode(self, queries: Sequence[Query], gallery: Gallery) -> torch.Tensor:
        if self._queries is None:
            self._queries = super().encode(queries, gallery)
        return truncate(self._queries, self.width)

    def gallery_embeds(self, gallery: Gallery) -> Rows:
        embeds = super().gallery_embeds(gallery)
        return embeds if self.width is None else truncate(torch.as_tensor(embeds), self.width)


class BenchmarkEvaluator:
    """
    Model -> metrics on a benchmark.

    Args:
        benchmark (`Benchmark`): The benchmark.
        processor: The model's processor.
        autocast (`torch.dtype`, *optional*): Type of matrix products.
        batch_size (`int`): Images of one pass.
        widths (`Sequence[int]`, *optional*): Measure embeddings cut to these widths as well.

    Attributes:
        metric_names (`list[str]`): The names of the metrics.
        protocol_id (`str`): Of the benchmark.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        processor: Any,
        *,
        autocast: torch.dtype | None,
        batch_size: int,
        widths: Sequence[int] = (),
    ):
        self.benchmark, self.processor, self.widths = benchmark, processor, widths
        self.options: dict[str, Any] = {"autocast": autocast, "batch_size": batch_size}
        self.protocol_id = benchmark.protocol_id
        self.metric_names = [f"{name}@{k}" for name, ks in benchmark.metrics.items() for k in ks]
        self.metric_names += [name_at(width, name) for width in widths for name in self.metric_names]

    def __call__(self, model: Any) -> dict[str, float]:
        retriever: Any = CutRetriever.from_model(model, self.processor, **self.options)
        metrics = self.benchmark.evaluate(self.benchmark.rank(retriever))
        for retriever.width in self.widths:
            at_width = self.benchmark.evaluate(self.benchmark.rank(retriever))
            metrics |= {name_at(retriever.width, name): value for name, value in at_width.items()}
        return metrics

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
