"""Compare two results on one benchmark, query by query: paired differences with 95 % intervals.

Both retrievers answered the same queries, so queries that are hard for both cancel out. A difference can be certain
although the intervals of the two means overlap. Results of different protocols or queries are refused.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contextcir.evaluation.bootstrap import mean_over_parts, paired_difference
from contextcir.evaluation.results import align, side_file

HOW = "Write it with contextcir benchmark --output, or Record.save."
TOLERANCE = 0.005  # half of the last digit in tables

Scores = dict[tuple[str, str], dict[str, float]]  # (part, query id) -> metric -> score, NaN if the query has none


def compare(
    path_a: str | Path, path_b: str | Path, retriever_a: str | None = None, retriever_b: str | None = None
) -> dict[str, Any]:
    """
    Compare two results of `contextcir benchmark --output` or [`~contextcir.evaluation.measure.Record.save`].

    Args:
        path_a (`str` or `Path`): JSON file of one result, with its [`side_file`] beside it.
        path_b (`str` or `Path`): The other one; may be the same file for two retrievers.
        retriever_a (`str`, *optional*): The retriever in the first file; by default its first.
        retriever_b (`str`, *optional*): The retriever in the second file; by default its first.

    Returns:
        `dict`: `benchmark`, `protocol_id`, `path_a`, `path_b`, `retriever_a`, `retriever_b`; and `metrics`, for each
        metric of both a dict of `a` and `b` (means over parts of the means over queries, in the metric's unit),
        `difference` (b - a), the bounds `low` and `high` of its 95 % interval, and `num_queries`.

    Raises:
        `ValueError`: The protocols or the queries differ, a file is missing or malformed, the two files of a result
            do not belong together, or a file has no such retriever.
    """
    a, b = _read_result(Path(path_a), retriever_a), _read_result(Path(path_b), retriever_b)
    if a.protocol_id != b.protocol_id:
        raise ValueError(
            f"{a.path} was measured with the protocol {a.protocol_id}, {b.path} with {b.protocol_id}. Only results of"
            " one protocol can be compared."
        )
    scores_a, scores_b = _read_scores(a), _read_scores(b)
    _refuse_missing_queries(a, scores_a, b, scores_b)
    _refuse_missing_queries(b, scores_b, a, scores_a)
    metrics_a, metrics_b = _metrics(scores_a), _metrics(scores_b)
    names = [name for name in metrics_a if name in metrics_b]
    if not names:
        raise ValueError(
            f"{a.path} has the metrics {', '.join(metrics_a)}, {b.path} {', '.join(metrics_b)}: none in common."
        )
    parts: dict[str, list[tuple[str, str]]] = {}
    for query in scores_a:
        parts.setdefault(query[0], []).append(query)
    arrays_a, arrays_b = (  # for each part (num_queries, num_metrics)
        [np.array([[scores[query][name] for name in names] for query in queries]) for queries in parts.values()]
        for scores in (scores_a, scores_b)
    )
    columns = {"a": mean_over_parts(arrays_a), "b": mean_over_parts(arrays_b)}
    _check_means(a, names, columns["a"])
    _check_means(b, names, columns["b"])
    columns |= paired_difference(arrays_a, arrays_b)
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
    """Format the result of [`compare`], one line for each metric, with a star if the interval excludes 0."""
    rows = [("", "A", "B", "B - A  ", "95 % interval", "queries")]
    for name, found in comparison["metrics"].items():
        star = "*" if found["low"] > 0 or found["high"] < 0 else " "
        rows.append(
            (
                name,
                f"{found['a']:.2f}",
                f"{found['b']:.2f}",
                f"{found['difference']:+.2f} {star}",
                f"{found['low']:+.2f} to {found['high']:+.2f}",
                f"{found['num_queries']:,}",
            )
        )
    return (
        f"{comparison['protocol_id']}: the same queries, paired\n"
        f"A: {comparison['retriever_a']} ({comparison['path_a']})\n"
        f"B: {comparison['retriever_b']} ({comparison['path_b']})\n\n"
        f"{align(rows)}\n\n* the interval of the difference excludes 0\n"
    )


@dataclass
class _Result:
    """The result of one retriever in a JSON file; `means` are the numbers in its table."""

    path: Path
    benchmark: str
    protocol_id: str
    retriever: str
    means: dict[str, float]


def _read_result(path: Path, retriever: str | None) -> _Result:
    """Read the result of this retriever, or the first in the file."""
    if not path.is_file():
        raise ValueError(f"{path} is missing. {HOW}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        means = {result["retriever"]: result["metrics"] for result in record["results"]}
        benchmark, protocol_id = record["benchmark"], record["protocol_id"]
    except (ValueError, KeyError, TypeError) as error:  # not text or JSON, or not this JSON
        raise ValueError(f"{path} is not a result: {type(error).__name__} {error}. {HOW}") from error
    if not means:
        raise ValueError(f"{path} has no results. {HOW}")
    if "incomplete" in record:
        raise ValueError(f"{path} is incomplete. {record['incomplete']} Measure again, which asks what failed.")
    if retriever is None:
        retriever = next(iter(means))
    if retriever not in means:
        raise ValueError(f"{path} has no result of {retriever!r}, it has {', '.join(map(repr, means))}.")
    return _Result(path, benchmark, protocol_id, retriever, means[retriever])


def _read_scores(result: _Result) -> Scores:
    path = side_file(result.path)
    if not path.is_file():
        raise ValueError(
            f"{path} with the scores of each query is missing. Write it together with {result.path}. {HOW}"
        )
    scores: Scores = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
                if row["retriever"] != result.retriever:
                    continue
                query = (str(row["part"]), str(row["id"]))
                found = {name: math.nan if value is None else float(value) for name, value in row["scores"].items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                expected = "an object with retriever, part, id and scores"
                raise ValueError(f"{where}: got {line[:80].rstrip()!r}, expected {expected}. {HOW}") from error
            if scores and found.keys() != set(metrics := _metrics(scores)):
                raise ValueError(f"{where}: has the metrics {', '.join(found)}, expected {', '.join(metrics)}.")
            if query in scores:
                raise ValueError(f"{where}: the query {query[1]!r} of part {query[0]!r} occurs twice.")
            scores[query] = found
    if not scores:
        raise ValueError(f"{path} has no scores of {result.retriever!r}, which {result.path} has. {HOW}")
    return scores


def _metrics(scores: Scores) -> list[str]:
    """Return the names of the metrics, which all queries share."""
    return list(next(iter(scores.values())))


def _refuse_missing_queries(a: _Result, scores_a: Scores, b: _Result, scores_b: Scores) -> None:
    """Raise a `ValueError` with the first query of a that b does not have."""
    if missing := [query for query in scores_a if query not in scores_b]:
        part, id_ = missing[0]
        where = f" of part {part!r}" if part else ""
        raise ValueError(
            f"{side_file(b.path)} has no scores of {b.retriever!r} for the query {id_!r}{where}, which"
            f" {side_file(a.path)} has. Measure both on the same queries."
        )


def _check_means(result: _Result, names: list[str], means: np.ndarray) -> None:
    """Raise a `ValueError` if these are not the means of the result file."""
    for name, mean in zip(names, means, strict=True):
        reported = result.means.get(name)
        if reported is not None and abs(reported - mean) > TOLERANCE:
            raise ValueError(
                f"{side_file(result.path)} gives {name} {mean:.2f} for {result.retriever!r}, {result.path} has"
                f" {reported:.2f}: they are not of one run. {HOW}"
            )
