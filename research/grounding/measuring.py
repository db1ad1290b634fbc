"""What a trained model finds on the validation benchmarks, query by query, and where its noun phrases look."""

from pathlib import Path
from typing import Any

import numpy as np

from contextcir.benchmarks.base import means
from contextcir.evaluation.grounding import KINDS, measure_grounding
from contextcir.retrieval.dense import DenseRetriever
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from research.grounding.data import BENCHMARK_SEEDS, PARTS, benchmark


def measure_run(folder: Path) -> dict[str, Any]:
    """
    Measure a saved model.

    Returns:
        `dict`: `parts`, for each part its `metrics` and the `hits` of each metric, a digit for each query of the
        benchmarks in their order; and `grounding`, of the iid part by kind of phrase.
    """
    model, processor = ContextCIRModel.from_pretrained(folder), ContextCIRProcessor.from_pretrained(folder)
    retriever = DenseRetriever.from_model(model, processor)
    parts: dict[str, Any] = {}
    for part in PARTS:
        benchmarks = [benchmark(part, seed) for seed in BENCHMARK_SEEDS]
        scores = [some.scores(some.rank(retriever)) for some in benchmarks]
        joined = {name: np.concatenate([one[name] for one in scores]) for name in scores[0]}
        parts[part] = {
            "protocol_ids": [some.protocol_id for some in benchmarks],
            "num_queries": sum(len(some.queries) for some in benchmarks),
            "metrics": means(joined),
            "hits": {name: "".join("1" if value else "0" for value in values) for name, values in joined.items()},
        }
    return {"parts": parts, "grounding": _grounding(model, processor)}


def _grounding(model: Any, processor: Any) -> dict[str, dict[str, float]]:
    """Return the means over the iid benchmarks, each phrase of which counts alike."""
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in BENCHMARK_SEEDS:
        some = benchmark("iid", seed)
        truths = some.ground_truth() if some.ground_truth else {}
        for kind, row in measure_grounding(model, processor, some, truths).items():
            if kind in KINDS:
                rows.setdefault(kind, []).append(row)
    return {kind: _mean(some) for kind, some in rows.items()}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    counts = [row["num_phrases"] for row in rows]
    found = {name: float(np.average([row[name] for row in rows], weights=counts)) for name in rows[0]}
    return found | {"num_phrases": sum(counts)}
