"""Recall@k: the share of queries with a target among the first k.

As CIRR (Liu et al., ICCV 2021) and FashionIQ count it; a query with several targets is found when any of them is. The
same function over a query's candidates is CIRR's recall_subset@k.

`evaluate.load("contextcir/metrics/recall_at_k.py")` gives the metric as an `evaluate` module.
"""

import sys
from collections.abc import Iterable, Sequence


def hit_at_k(ranking: Sequence[str], targets: Iterable[str], k: int) -> float:
    """
    Whether a query is found: 100 where any of its targets is among the first `k`, else 0.

    Args:
        ranking (`Sequence[str]`): Ranked ids, best first.
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
    The share of a query's targets that is among the first `k`, in percent: recall as information retrieval has it, and
    as Pic2Word counts domain conversion (Saito et al., CVPR 2023).

    Args:
        ranking (`Sequence[str]`): Ranked ids, best first, each at most once.
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
    top, targets = set(ranking[:k]), set(targets)
    if k < 1 or not targets or len(top) < len(ranking[:k]):
        raise ValueError(f"Got {len(targets)} targets, k={k} and {len(ranking[:k]) - len(top)} repeated ids.")
    return 100 * len(top & targets) / len(targets)


def recall_at_k(rankings: Sequence[Sequence[str]], targets: Sequence[Iterable[str]], k: int) -> float:
    """
    Mean of [`hit_at_k`] over the queries: the share of queries with a target among their first `k`, in percent.

    Args:
        rankings (`Sequence[Sequence[str]]`): Ranked ids of each query, best first.
        targets (`Sequence[Iterable[str]]`): The relevant ids of each query.
        k (`int`): How far down to look.

    Returns:
        `float`: In [0, 100].

    Raises:
        `ValueError`: There are no queries, the lengths differ, or `k` is less than 1.

    Example:

    ```python
    >>> recall_at_k([["b", "a"], ["c", "b"]], [{"a"}, {"c"}], 1)
    50.0
    ```"""
    if not len(rankings) or len(rankings) != len(targets):
        raise ValueError(
            f"Got {len(rankings)} rankings and {len(targets)} sets of targets, expected equally many, at least one."
        )
    return sum(hit_at_k(*pair, k) for pair in zip(rankings, targets, strict=True)) / len(rankings)


# As when evaluate.load reads this file; the library itself is optional and slow to import.
if "evaluate" in sys.modules:
    import datasets
    import evaluate

    class RecallAtK(evaluate.Metric):
        """Recall@k as an `evaluate` module: `metric.compute(predictions=rankings, references=targets, ks=[1, 5])`."""

        def _info(self):
            ids = datasets.Sequence(datasets.Value("string"))
            return evaluate.MetricInfo(
                description="Share of queries with at least one target among the first k, in percent.",
                citation="",
                inputs_description=recall_at_k.__doc__,
                features=datasets.Features({"predictions": ids, "references": ids}),
            )

        def _compute(self, predictions, references, ks=(1, 5, 10, 50)):
            return {f"recall@{k}": recall_at_k(predictions, references, k) for k in ks}
