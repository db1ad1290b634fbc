"""Scores of ranked ids, in percent: recall, average precision, reciprocal rank and discounted gain.

Each score has a function of one query, and one of many that is the mean over the queries. Ranked ids are best first,
each at most once.
"""

import math
from collections.abc import Callable, Iterable, Sequence


def hit_at_k(ranking: Sequence[str], targets: Iterable[str], k: int) -> float:
    """
    Whether any target of a query is among the first `k`: recall as CIRR and FashionIQ count it.

    Args:
        ranking (`Sequence[str]`): Ranked ids.
        targets (`Iterable[str]`): The relevant ids.
        k (`int`): How far down to look.

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
    The share of a query's targets among the first `k`: recall as information retrieval has it, and as Pic2Word counts
    domain conversion (Saito et al., CVPR 2023).

    Args:
        ranking (`Sequence[str]`): Ranked ids.
        targets (`Iterable[str]`): The relevant ids.
        k (`int`): How far down to look.

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
    Average precision of a query among its first `k`, as CIRCO defines it (Baldrati et al., ICCV 2023): the precision
    at each place that holds a target, summed over the first k places and divided by `min(number of targets, k)`.

    Args:
        ranking (`Sequence[str]`): Ranked ids.
        targets (`Iterable[str]`): The relevant ids.
        k (`int`): How far down to look.

    Returns:
        `float`: In [0, 100]; 100 where the first places hold targets only, as many as there are or as fit.

    Raises:
        `ValueError`: There is no target, an id occurs twice among the first `k`, or `k` is less than 1.

    Example:

    ```python
    >>> average_precision_at_k(["a", "b", "c", "d"], {"a", "d"}, 4)
    75.0
    ```"""
    top, relevant = _checked(ranking, targets, k)
    found, precisions = 0, 0.0
    for place, id_ in enumerate(top, start=1):
        if id_ in relevant:
            found += 1
            precisions += found / place
    return 100 * precisions / min(len(relevant), k)


def reciprocal_rank(ranking: Sequence[str], targets: Iterable[str], k: int | None = None) -> float:
    """
    One over the place of the first target: 100 for the first place, 50 for the second.

    Args:
        ranking (`Sequence[str]`): Ranked ids.
        targets (`Iterable[str]`): The relevant ids.
        k (`int`, *optional*): How far down to look; by default to the end of the ranking.

    Returns:
        `float`: In [0, 100]; 0 where no target is found.

    Raises:
        `ValueError`: There is no target, an id occurs twice as far down as is looked, or `k` is less than 1.

    Example:

    ```python
    >>> reciprocal_rank(["b", "a", "c"], {"a", "c"}), reciprocal_rank(["b", "a", "c"], {"a", "c"}, 1)
    (50.0, 0.0)
    ```"""
    top, relevant = _checked(ranking, targets, len(ranking) or 1 if k is None else k)
    return next((100 / place for place, id_ in enumerate(top, start=1) if id_ in relevant), 0.0)


def discounted_gain_at_k(ranking: Sequence[str], targets: Iterable[str], k: int) -> float:
    """
    Normalised discounted cumulative gain of a query among its first `k` (Järvelin and Kekäläinen, TOIS 2002), with an
    id relevant or not, and the discount `1 / log2(1 + place)` that BEIR and MTEB use.

    Args:
        ranking (`Sequence[str]`): Ranked ids.
        targets (`Iterable[str]`): The relevant ids.
        k (`int`): How far down to look.

    Returns:
        `float`: In [0, 100]; 100 where the first places hold targets only, as many as there are or as fit.

    Raises:
        `ValueError`: There is no target, an id occurs twice among the first `k`, or `k` is less than 1.

    Example:

    ```python
    >>> discounted_gain_at_k(["a", "b", "c"], {"a"}, 3), discounted_gain_at_k(["b", "d", "a"], {"a"}, 3)
    (100.0, 50.0)
    ```"""
    top, relevant = _checked(ranking, targets, k)
    gain = sum(1 / math.log2(1 + place) for place, id_ in enumerate(top, start=1) if id_ in relevant)
    best = sum(1 / math.log2(1 + place) for place in range(1, min(len(relevant), k) + 1))
    return 100 * gain / best


def recall_at_k(rankings: Sequence[Sequence[str]], targets: Sequence[Iterable[str]], k: int) -> float:
    """
    Mean of [`hit_at_k`] over the queries: the share of queries with a target among their first `k`.

    Args:
        rankings (`Sequence[Sequence[str]]`): Ranked ids of each query.
        targets (`Sequence[Iterable[str]]`): The relevant ids of each query.
        k (`int`): How far down to look.

    Returns:
        `float`: In [0, 100].

    Raises:
        `ValueError`: There are no queries, the lengths differ, or as [`hit_at_k`].

    Example:

    ```python
    >>> recall_at_k([["b", "a"], ["c", "b"]], [{"a"}, {"c"}], 1)
    50.0
    ```"""
    return _mean(hit_at_k, rankings, targets, k)


def map_at_k(rankings: Sequence[Sequence[str]], targets: Sequence[Iterable[str]], k: int) -> float:
    """
    Mean of [`average_precision_at_k`] over the queries. Arguments, result and errors as for [`recall_at_k`].

    Example:

    ```python
    >>> map_at_k([["a", "b"], ["b", "a"]], [{"a"}, {"a"}], 2)
    75.0
    ```"""
    return _mean(average_precision_at_k, rankings, targets, k)


def mrr(rankings: Sequence[Sequence[str]], targets: Sequence[Iterable[str]], k: int | None = None) -> float:
    """
    Mean of [`reciprocal_rank`] over the queries. Arguments, result and errors as for [`recall_at_k`]. A ranking that
    was cut gives MRR@k for the length that it was cut to.

    Example:

    ```python
    >>> mrr([["a", "b"], ["b", "a"]], [{"a"}, {"a"}])
    75.0
    ```"""
    return _mean(reciprocal_rank, rankings, targets, k)


def ndcg_at_k(rankings: Sequence[Sequence[str]], targets: Sequence[Iterable[str]], k: int) -> float:
    """
    Mean of [`discounted_gain_at_k`] over the queries. Arguments, result and errors as for [`recall_at_k`].

    Example:

    ```python
    >>> ndcg_at_k([["a", "b", "c"], ["b", "c", "a"]], [{"a"}, {"a"}], 3)
    75.0
    ```"""
    return _mean(discounted_gain_at_k, rankings, targets, k)


def _checked(ranking: Sequence[str], targets: Iterable[str], k: int) -> tuple[Sequence[str], set[str]]:
    """The first `k` ids and the targets, both fit for a score."""
    top, relevant = ranking[:k], set(targets)
    if k < 1 or not relevant:
        raise ValueError(f"Got {len(relevant)} targets and k={k}, expected at least 1 of each.")
    if len(set(top)) < len(top):
        raise ValueError(f"An id occurs twice among the first {len(top)}. A ranking holds each id once.")
    return top, relevant


def _mean(score: Callable, rankings: Sequence[Sequence[str]], targets: Sequence[Iterable[str]], k) -> float:
    if not len(rankings) or len(rankings) != len(targets):
        raise ValueError(
            f"Got {len(rankings)} rankings and {len(targets)} sets of targets, expected equally many, at least one."
        )
    return sum(score(ranking, own, k) for ranking, own in zip(rankings, targets, strict=True)) / len(rankings)
