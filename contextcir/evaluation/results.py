"""From scores of queries to what people read: metrics with intervals, by part and by tag, as a record and as a table.

A benchmark of several parts (FashionIQ's categories) is reported by the mean over its parts. Every number carries its
95 % bootstrap interval over queries: 800 queries alone make a point or two of chance.
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
    What is said of one retriever.

    Args:
        name (`str`): What the table calls it.
        parts (`Sequence[Benchmark]`): The benchmark.
        scores (`Sequence[dict[str, np.ndarray]]`): What [`Benchmark.scores`] gave for each part.

    Returns:
        `dict`: `retriever`; `metrics`, `metric@k` -> percent, the mean over parts of the means over queries;
        `intervals`, the same -> `[low, high]`; `parts`, part -> its own metrics, where there are several; and
        `by_tag` of the queries of all parts.
    """
    of_parts = [means(some) for some in scores]
    metrics = {key: float(np.mean([part[key] for part in of_parts])) for key in of_parts[0]}
    low, high = interval([np.stack([some[key] for key in metrics], axis=1) for some in scores])
    queries = [query for part in parts for query in part.queries]
    by_query = {key: np.concatenate([some[key] for some in scores]) for key in metrics}
    tagged = len(queries) == len(next(iter(by_query.values())))  # not where one score belongs to several queries
    return {
        "retriever": name,
        "metrics": metrics,
        "intervals": {key: [float(low[i]), float(high[i])] for i, key in enumerate(metrics)},
        "parts": {part.part: found for part, found in zip(parts, of_parts, strict=True)} if len(parts) > 1 else {},
        "by_tag": means_by_tag(queries, by_query) if tagged else {},
    }


def query_lines(
    name: str, parts: Sequence[Benchmark], rankings: Sequence[Ranking], scores: Sequence[dict[str, np.ndarray]]
) -> Iterator[dict[str, Any]]:
    """One JSON object for each part and query of a retriever, with its scores (null: not defined for it) and the best
    ids: what `benchmark.py compare` pairs."""
    for part, ranking, some in zip(parts, rankings, scores, strict=True):
        ids = part.unit_ids
        places = {id_: place for place, id_ in enumerate(ranking.query_ids)}
        for row, id_ in enumerate(ids):
            line = {
                "retriever": name,
                "part": part.part,
                "id": id_,
                "scores": {
                    key: None if math.isnan(values[row]) else float(values[row]) for key, values in some.items()
                },
            }
            if id_ in places:
                line["top"] = ranking.gallery_ids[places[id_]][:TOP]
            yield line


def side_file(path: str | Path) -> Path:
    """The file of the scores of single queries: `metrics.queries.jsonl` beside `metrics.json`."""
    return Path(path).with_suffix(".queries.jsonl")


def format_table(record: dict[str, Any]) -> str:
    """The metrics of every retriever in lines of equal width, each with its interval below; then chance."""
    groups: dict[str, list[str]] = {}
    for key in record["results"][0]["metrics"]:
        groups.setdefault(key.partition("@")[0], []).append(key)
    rows = []
    for result in record["results"]:
        rows.append((result["retriever"], {key: f"{value:.2f}" for key, value in result["metrics"].items()}))
        rows.append(("", {key: f"{low:.1f}-{high:.1f}" for key, (low, high) in result["intervals"].items()}))
    if record["chance"]:
        rows.append(("chance", {key: f"{value:.2f}" for key, value in record["chance"].items()}))
    width = max(len(label) for label, _ in rows)
    cell = max(7, 2 + max(len(text) for _, cells in rows for text in cells.values()))

    def line(label, cells):
        return (label.ljust(width) + "".join("  " + text for text in cells)).rstrip()

    def columns(texts):
        return "".join(text.rjust(cell) for text in texts)

    lines = [
        line("", [group.rjust(cell).ljust(cell * len(keys)) for group, keys in groups.items()]),
        line("", [columns("".join(key.partition("@")[1:]) for key in keys) for keys in groups.values()]),
        *(line(label, [columns(cells.get(k, "") for k in keys) for keys in groups.values()]) for label, cells in rows),
    ]
    title = f"{record['num_queries']:,} queries, {record['gallery_size']:,} images, in percent with 95 % intervals"
    tables = [f"{record['protocol_id']}: {title}", "", *lines, ""]
    if "bri" in groups:
        tables += ["bri is no percentage, and lower is better.", ""]
    parts = record["results"][0]["parts"]
    if parts:
        tables += [f"The mean of {', '.join(parts)}: {record['results'][0]['retriever']}", ""]
        names = max(map(len, parts))
        for part, found in parts.items():
            tables.append(part.ljust(names) + "  " + "  ".join(f"{key} {value:.2f}" for key, value in found.items()))
        tables.append("")
    return "\n".join(tables)
