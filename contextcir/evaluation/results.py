"""From scores of queries to results: metrics with intervals, by part and by tag, as JSON and as a table.

A benchmark of several parts (the categories of FashionIQ) is reported by the mean over its parts. Every number has its
95 % bootstrap interval over queries: with 800 queries, chance alone makes a point or two.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contextcir.benchmarks.base import Benchmark, means, means_by_tag
from contextcir.evaluation.bootstrap import interval
from contextcir.retrieval.base import Ranking

TOP = 10  # ids of each query's ranking that are kept


def summarise(name: str, parts: Sequence[Benchmark], scores: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    """
    Summarise the scores of one retriever.

    Args:
        name (`str`): Name of the retriever in tables.
        parts (`Sequence[Benchmark]`): The parts of the benchmark.
        scores (`Sequence[dict[str, np.ndarray]]`): The result of [`Benchmark.scores`] for each part.

    Returns:
        `dict`: `retriever`; `metrics`, `metric@k` -> percent, the mean over parts of the means over queries;
        `intervals`, the same -> `[low, high]`; `parts`, part -> its metrics, if there are several; and `by_tag`, tag
        -> means over the queries of all parts.
    """
    of_parts = [means(some) for some in scores]
    metrics = {key: float(np.mean([part[key] for part in of_parts])) for key in of_parts[0]}
    intervals = interval([np.stack([some[key] for key in metrics], axis=1) for some in scores])  # (2, num_metrics)
    queries = [query for part in parts for query in part.queries]
    by_query = {key: np.concatenate([some[key] for some in scores]) for key in metrics}
    tagged = len(queries) == len(next(iter(by_query.values())))  # false if a score belongs to several queries
    return {
        "retriever": name,
        "metrics": metrics,
        "intervals": dict(zip(metrics, intervals.T.tolist(), strict=True)),
        "parts": {part.part: found for part, found in zip(parts, of_parts, strict=True)} if len(parts) > 1 else {},
        "by_tag": means_by_tag(queries, by_query) if tagged else {},
    }


def query_lines(
    name: str, parts: Sequence[Benchmark], rankings: Sequence[Ranking], scores: Sequence[dict[str, np.ndarray]]
) -> Iterator[dict[str, Any]]:
    """Yield one JSON object for each part and query: its scores (null if it does not have the metric) and its best
    ids. [`~contextcir.evaluation.compare.compare`] reads them. Arguments as for [`summarise`]."""
    for part, ranking, some in zip(parts, rankings, scores, strict=True):
        places = {id_: place for place, id_ in enumerate(ranking.query_ids)}
        for row, id_ in enumerate(part.unit_ids):
            values = {key: float(of_metric[row]) for key, of_metric in some.items()}
            line = {
                "retriever": name,
                "part": part.part,
                "id": id_,
                "scores": {key: None if math.isnan(value) else value for key, value in values.items()},
            }
            if id_ in places:
                line["top"] = ranking.gallery_ids[places[id_]][:TOP]
            yield line


def side_file(path: str | Path) -> Path:
    """Return the path of the scores of single queries: `metrics.queries.jsonl` for `metrics.json`."""
    return Path(path).with_suffix(".queries.jsonl")


def align(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of cells as lines of equal length: first column to the left, the others to the right."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        name.ljust(first) + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, others, strict=True))
        for name, *cells in rows
    ]
    return "\n".join(lines)


def format_table(record: dict[str, Any]) -> str:
    """Format the metrics of every retriever, each with its interval below, then those of chance."""
    first = record["results"][0]
    names, values = zip(*(key.partition("@")[::2] for key in first["metrics"]), strict=True)
    rows = [
        ["", *(name if place == names.index(name) else "" for place, name in enumerate(names))],
        ["", *(value and f"@{value}" for value in values)],
    ]
    for result in record["results"]:
        rows.append([result["retriever"], *(f"{value:.2f}" for value in result["metrics"].values())])
        rows.append(["", *(f"{low:.1f}-{high:.1f}" for low, high in result["intervals"].values())])
    if record["chance"]:
        rows.append(["chance", *(f"{record['chance'][key]:.2f}" for key in first["metrics"])])
    title = f"{record['num_queries']:,} queries, {record['gallery_size']:,} images, in percent with 95 % intervals"
    tables = [f"{record['protocol_id']}: {title}\n\n{align(rows)}\n"]
    if "bri" in names:
        tables.append("bri is not in percent. Lower is better.\n")
    if parts := first["parts"]:
        of_parts = [[name, *(f"{found[key]:.2f}" for key in first["metrics"])] for name, found in parts.items()]
        mean = f"The mean of {', '.join(parts)}: {first['retriever']}"
        tables.append(f"{mean}\n\n{align([['', *first['metrics']], *of_parts])}\n")
    return "\n".join(tables)
