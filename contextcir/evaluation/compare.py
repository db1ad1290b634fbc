"""Two results of one benchmark, query by query: by how much one retriever is above another, and how sure that is.

The two answered the same queries, so the interval is that of the paired difference: what is hard for both cancels out,
and a difference can be certain where the intervals of the two means overlap. Nothing but one protocol on one set of
queries compares; all else is refused.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contextcir.evaluation.bootstrap import paired_difference
from contextcir.evaluation.results import side_file

HOW = "Write it with benchmark.py --output."
TOLERANCE = 0.005  # half of the last digit that tables show


def compare(
    path_a: str | Path, path_b: str | Path, retriever_a: str | None = None, retriever_b: str | None = None
) -> dict[str, Any]:
    """
    Compare two results that `benchmark.py --output` wrote.

    Args:
        path_a (`str` or `Path`): The JSON file of one; its [`side_file`] lies beside it.
        path_b (`str` or `Path`): Of the other, or the same file for two retrievers of one run.
        retriever_a (`str`, *optional*): Which result of the first file; by default its first.
        retriever_b (`str`, *optional*): Which of the second.

    Returns:
        `dict`: `benchmark`, `protocol_id`, `path_a`, `path_b`, `retriever_a`, `retriever_b`; and `metrics`, which has
        for each metric that both have `a` and `b` (the means over the parts' means over queries, in the metric's
        unit), `difference` (b - a), the bounds `low` and `high` of its 95 % interval, and `num_queries`.

    Raises:
        `ValueError`: The protocols or the queries differ, a file is missing, is not as `benchmark.py` writes it or
            does not belong to the other, or a file has no such retriever.
    """
    a, b = _read_result(Path(path_a), retriever_a), _read_result(Path(path_b), retriever_b)
    if a.protocol_id != b.protocol_id:
        raise ValueError(
            f"{a.path} was measured by {a.protocol_id}, {b.path} by {b.protocol_id}. Numbers compare only under one"
            " protocol."
        )
    scores_a, scores_b = _read_scores(a), _read_scores(b)
    _refuse_different_queries(a, scores_a, b, scores_b)
    _refuse_different_queries(b, scores_b, a, scores_a)

    names = [name for name in scores_a.metrics if name in scores_b.metrics]
    if not names:
        raise ValueError(
            f"{a.path} has the metrics {', '.join(scores_a.metrics)}, {b.path} {', '.join(scores_b.metrics)}:"
            " none in common."
        )
    parts_a, parts_b = [], []  # of shape (queries, metrics) each, rows in the order of a
    for part, rows_a in scores_a.parts.items():
        rows_b = scores_b.parts[part]
        parts_a.append(np.array([[scores[name] for name in names] for scores in rows_a.values()]))
        parts_b.append(np.array([[rows_b[id_][name] for name in names] for id_ in rows_a]))
    means_a, means_b = _means(a, names, parts_a), _means(b, names, parts_b)
    columns = {"a": means_a, "b": means_b, **paired_difference(parts_a, parts_b)}
    return {
        "benchmark": a.benchmark,
        "protocol_id": a.protocol_id,
        "path_a": str(path_a),
        "path_b": str(path_b),
        "retriever_a": a.retriever,
        "retriever_b": b.retriever,
        "metrics": {
            name: {key: values[place].item() for key, values in columns.items()} for place, name in enumerate(names)
        },
    }


def format_comparison(comparison: dict[str, Any]) -> str:
    """What [`compare`] found, a line for each metric; a star where the interval excludes 0."""
    lines = [("", "A", "B", "B - A", "", "95 % interval", "queries")]
    for name, found in comparison["metrics"].items():
        certain = found["low"] > 0 or found["high"] < 0
        lines.append(
            (
                name,
                f"{found['a']:.2f}",
                f"{found['b']:.2f}",
                f"{found['difference']:+.2f}",
                "*" if certain else "",
                f"{found['low']:+.2f} to {found['high']:+.2f}",
                f"{found['num_queries']:,}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    gaps = ["", "  ", "  ", "  ", " ", "  ", "  "]  # the star stands next to its number
    table = [
        "".join(
            gap + (cell.rjust(width) if place else cell.ljust(width))
            for place, (gap, cell, width) in enumerate(zip(gaps, line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join(
        [
            f"{comparison['protocol_id']}: the same queries, paired",
            f"A: {comparison['retriever_a']} ({comparison['path_a']})",
            f"B: {comparison['retriever_b']} ({comparison['path_b']})",
            "",
            *table,
            "",
            "* the interval of the difference excludes 0",
            "",
        ]
    )


@dataclass
class _Result:
    """One retriever's result in a file of `benchmark.py`."""

    path: Path
    benchmark: str
    protocol_id: str
    retriever: str
    means: dict[str, float]  # metric -> the number that the table shows


@dataclass
class _Scores:
    """One retriever's scores in a side file."""

    metrics: list[str]
    parts: dict[str, dict[str, dict[str, float]]]  # part -> query id -> metric -> score, NaN where it is not defined


def _read_result(path: Path, retriever: str | None) -> _Result:
    """The named result of a file, or its first."""
    if not path.is_file():
        raise ValueError(f"{path} is missing. {HOW}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        means = {result["retriever"]: result["metrics"] for result in record["results"]}
        benchmark, protocol_id = record["benchmark"], record["protocol_id"]
    except (ValueError, KeyError, TypeError) as error:  # not text or JSON, or not this JSON
        raise ValueError(f"{path} is not a result of benchmark.py: {type(error).__name__} {error}. {HOW}") from error
    if not means:
        raise ValueError(f"{path} has no results. {HOW}")
    if retriever is None:
        retriever = next(iter(means))
    if retriever not in means:
        raise ValueError(f"{path} has no result of {retriever!r}, it has {', '.join(map(repr, means))}.")
    return _Result(path, benchmark, protocol_id, retriever, means[retriever])


def _read_scores(result: _Result) -> _Scores:
    """The scores of a result's queries."""
    path = side_file(result.path)
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: a comparison needs the scores of each query. benchmark.py --output {result.path}"
            " writes both files."
        )
    metrics: list[str] = []
    parts: dict[str, dict[str, dict[str, float]]] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if row["retriever"] != result.retriever:
                    continue
                part, id_ = str(row["part"]), str(row["id"])
                scores = {name: math.nan if value is None else float(value) for name, value in row["scores"].items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path}, line {number}: got {line[:80].rstrip()!r}, expected an object with retriever, part,"
                    f" id and scores. {HOW}"
                ) from error
            metrics = metrics or list(scores)
            if scores.keys() != set(metrics):
                raise ValueError(
                    f"{path}, line {number}: got the metrics {', '.join(scores)}, expected {', '.join(metrics)}."
                )
            rows = parts.setdefault(part, {})
            if id_ in rows:
                raise ValueError(f"{path}, line {number}: the query {id_!r} of part {part!r} is there twice.")
            rows[id_] = scores
    if not parts:
        raise ValueError(f"{path} has no scores of {result.retriever!r}, which {result.path} has. {HOW}")
    return _Scores(metrics, parts)


def _refuse_different_queries(a: _Result, scores_a: _Scores, b: _Result, scores_b: _Scores) -> None:
    """Raise a `ValueError` that names the first query of a that b does not have."""
    for part, rows in scores_a.parts.items():
        there = scores_b.parts.get(part, {})
        missing = [id_ for id_ in rows if id_ not in there]
        if missing:
            where = f" of part {part!r}" if part else ""
            raise ValueError(
                f"{side_file(b.path)} has no scores of {b.retriever!r} for the query {missing[0]!r}{where}, which"
                f" {side_file(a.path)} has. Measure both on the same queries."
            )


def _means(result: _Result, names: list[str], parts: list[np.ndarray]) -> np.ndarray:
    """The means over the parts' means over queries, which have to be those that the result reports."""
    defined = [~np.isnan(part) for part in parts]
    with np.errstate(invalid="ignore"):  # 0 / 0 where a part has no query with the metric
        of_parts = [np.nansum(part, axis=0) / some.sum(axis=0) for part, some in zip(parts, defined, strict=True)]
    means = np.mean(of_parts, axis=0)
    for name, mean in zip(names, means, strict=True):
        reported = result.means.get(name)
        if reported is not None and abs(reported - mean) > TOLERANCE:
            raise ValueError(
                f"{side_file(result.path)} gives {name} {mean:.2f} for {result.retriever!r}, {result.path} says"
                f" {reported:.2f}: they are not of one run. benchmark.py --output writes both."
            )
    return means
