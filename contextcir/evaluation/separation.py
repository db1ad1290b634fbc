"""How far a model sets targets apart: their scores less those of hard negatives, and what the reference image adds."""

from collections.abc import Mapping

import numpy as np

from contextcir.benchmarks.base import Benchmark

ANY = "any other image"


def ranked_scores(benchmark: Benchmark, scores: np.ndarray) -> np.ndarray:
    """
    Take the references out of a ranking, where the protocol says so.

    Args:
        benchmark (`Benchmark`): Its queries are the rows, its gallery the columns.
        scores (`numpy.ndarray` of shape `(num_queries, gallery_size)`): Higher is better.

    Returns:
        `numpy.ndarray`: A copy, minus infinity where an image is not ranked.
    """
    scores = scores.astype(np.float32, copy=True)
    for row, query in enumerate(benchmark.queries):
        place = benchmark.gallery.positions.get(query.reference_id or "") if benchmark.exclude_reference else None
        if place is not None:
            scores[row, place] = -np.inf
    return scores


def first_ranks(benchmark: Benchmark, scores: np.ndarray) -> np.ndarray:
    """Return the rank of the best target of each query, from 1; of equal scores, others come first. Arguments as for
    [`ranked_scores`]."""
    ranks = []
    for row, places in zip(ranked_scores(benchmark, scores), _target_places(benchmark), strict=True):
        others = np.delete(row, places)
        ranks.append(1 + int((others >= row[places].max()).sum()))
    return np.array(ranks)


def score_margins(benchmark: Benchmark, scores: np.ndarray) -> dict[str, np.ndarray]:
    """
    Compute by how much the best target of a query scores above its hard negatives. Arguments as for
    [`ranked_scores`].

    Returns:
        `dict[str, numpy.ndarray]`: For [`ANY`] and for each kind of mistake that the benchmark names (`distractors`),
        the score of the best target less that of the best image of the kind, a number for each query that has one.
        Below 0 the model prefers the mistake.
    """
    margins: dict[str, list[float]] = {ANY: []}
    rows = zip(benchmark.queries, ranked_scores(benchmark, scores), _target_places(benchmark), strict=True)
    for query, row, places in rows:
        best = row[places].max()
        margins[ANY].append(best - np.delete(row, places).max())
        named: Mapping[str, str] = (benchmark.distractors or {}).get(query.id, {})
        by_kind: dict[str, float] = {}
        for id_, kind in named.items():
            score = float(row[benchmark.gallery.positions[id_]])
            by_kind[kind] = max(score, by_kind.get(kind, -np.inf))
        for kind, score in by_kind.items():
            if np.isfinite(score):
                margins.setdefault(kind, []).append(best - score)
    return {kind: np.array(values) for kind, values in margins.items()}


def _target_places(benchmark: Benchmark) -> list[list[int]]:
    positions = benchmark.gallery.positions
    known = [[id_ for id_ in benchmark.relevance[query.id] if id_ in positions] for query in benchmark.queries]
    return [[positions[id_] for id_ in ids] for ids in known]
