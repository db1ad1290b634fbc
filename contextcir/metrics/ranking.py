"""Metrics of ranked ids, in percent: recall, average precision, reciprocal rank and discounted cumulative gain.

Each metric is a function of one query; [`mean_over_queries`] takes the mean. Ranked ids are best first, each at most
once.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence


def hit_at_k(ranking: Sequence[str], targets: Iterable[str], k: int) -> float:
    """
    Whether any target of a query is among the first `k`: recall as defined by CIRR and FashionIQ.

    Args:
        ranking (`Sequence[str]`): Ranked ids.
        targets (`Iterable[str]`): Relevant ids.
        k (`int`): Number of ranks that count.

    Returns:
        `float`: 0 or 100.

    Raises:
        `ValueError`: `k` is less than 1.

    Example:

    ```python
    >>> hit_at_k(["b", "a", "c"], {"a", "d"}, 1), hit_at_k(["b", "a", "c"], {"a", "d"}, 2)
    (0.0, 100.0)
    ```"""
    if k < 1:
        raise ValueError(f"Got k={k}, expected at least 1.")
    return 0.0 if set(targets).isdisjoint(ranking[:k]) else 100.0


def share_at_k(ranking: Sequence[str], targets: Iterable[str], k: int) -> float:
    """
    Share of a query's targets among the first `k`: recall as defined in information retrieval, and by Pic2Word for
    domain conversion (Saito et al., CVPR 2023). Arguments as for [`hit_at_k`].

    Returns:
        `float`: In [0, 100].

    Raises:
        `ValueError`: There is no target, an id occurs twice among the first `k`, or `k` is less than 1.

    Example:

    ```python
    >>> share_at_k(["b", "a", "c"], {"a", "d"}, 2)
    50.0
    ```"""
    top, relevant = _checked(ranking, targets, k)
    return 100 * len(relevant.intersection(top)) / len(relevant)


def average_precision_at_k(ranking: Sequence[str], targets: Iterable[str], k: int) -> float:
    """
    Average precision among the first `k`, as defined by CIRCO (Baldrati et al., ICCV 2023): the sum of the precisions
    at the ranks of targets, divided by `min(number of targets, k)`. Arguments, range and errors as for [`share_at_k`].

    Example:

    ```python
    >>> average_precision_at_k(["a", "b", "c", "d"], {"a", "d"}, 4)
    75.0
    ```"""
    top, relevant = _checked(ranking, targets, k)
    found, precisions = 0, 0.0
    for rank, id_ in enumerate(top, start=1):
        if id_ in relevant:
            found += 1
            precisions += found / rank
    return 100 * precisions / min(len(relevant), k)


def reciprocal_rank(ranking: Sequence[str], targets: Iterable[str], k: int | None = None) -> float:
    """
    100 divided by the rank of the first target, or 0 if there is none among the first `k`. Arguments, range and errors
    as for [`share_at_k`]; by default, `k` is the length of the ranking.

    Example:

    ```python
    >>> reciprocal_rank(["b", "a", "c"], {"a", "c"}), reciprocal_rank(["b", "a", "c"], {"a", "c"}, 1)
    (50.0, 0.0)
    ```"""
    top, relevant = _checked(ranking, targets, len(ranking) or 1 if k is None else k)
    return next((100 / rank for rank, id_ in enumerate(top, start=1) if id_ in relevant), 0.0)


def discounted_gain_at_k(ranking: Sequence[str], targets: Iterable[str], k: int) -> float:
    """
    Normalised discounted cumulative gain among the first `k` (Järvelin and Kekäläinen, TOIS 2002). Relevance is
    binary, the discount is `1 / log2(1 + rank)`, as in BEIR and MTEB. Arguments, range and errors as for
    [`share_at_k`].

    Example:

    ```python
    >>> discounted_gain_at_k(["a", "b", "c"], {"a"}, 3), discounted_gain_at_k(["b", "d", "a"], {"a"}, 3)
    (100.0, 50.0)
    ```"""
    top, relevant = _checked(ranking, targets, k)
    gain = sum(1 / math.log2(1 + rank) for rank, id_ in enumerate(top, start=1) if id_ in relevant)
    best = sum(1 / math.log2(1 + rank) for rank in range(1, min(len(relevant), k) + 1))
    return 100 * gain / best


def mean_over_queries(
    score: Callable[..., float], rankings: Sequence[Sequence[str]], targets: Sequence[Iterable[str]], k: int | None
) -> float:
    """
    Mean score of many queries: recall@k with [`hit_at_k`], mAP@k with [`average_precision_at_k`], MRR with
    [`reciprocal_rank`], nDCG@k with [`discounted_gain_at_k`].

    Args:
        score (`Callable`): A metric of one query, one of the functions above.
        rankings (`Sequence[Sequence[str]]`): Ranked ids of each query.
        targets (`Sequence[Iterable[str]]`): Relevant ids of each query.
        k (`int`, *optional*): Number of ranks that count. `None` is valid for [`reciprocal_rank`] only.

    Returns:
        `float`: In [0, 100].

    Raises:
        `ValueError`: There are no queries, the lengths differ, or the metric raises it.

    Example:

    ```python
    >>> mean_over_queries(average_precision_at_k, [["a", "b"], ["b", "a"]], [{"a"}, {"a"}], 2)
    75.0
    ```"""
    if not len(rankings) or len(rankings) != len(targets):
        raise ValueError(
            f"Got {len(rankings)} rankings and {len(targets)} sets of targets, expected equally many, at least one."
        )
    return sum(score(ranking, own, k) for ranking, own in zip(rankings, targets, strict=True)) / len(rankings)


def _checked(ranking: Sequence[str], targets: Iterable[str], k: int) -> tuple[Sequence[str], set[str]]:
    """Return the first `k` ids and the targets."""
    top, relevant = ranking[:k], set(targets)
    if k < 1 or not relevant:
        raise ValueError(f"Got {len(relevant)} targets and k={k}, expected at least 1 of each.")
    if len(set(top)) < len(top):
        repeated = next(id_ for id_, count in Counter(top).items() if count > 1)
        raise ValueError(f"The id {repeated!r} occurs twice among the first {len(top)}, expected each id once.")
    return top, relevant
