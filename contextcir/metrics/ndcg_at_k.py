"""nDCG@k: the mean over queries of the discounted gain among the first k, against the best that could be had.

As Järvelin and Kekäläinen define it (TOIS 2002) with an id relevant or not, and the discount 1 / log2(1 + place) that
BEIR and MTEB use. The best ranking begins with `min(number of targets, k)` targets.

`evaluate.load("contextcir/metrics/ndcg_at_k.py")` gives the metric as an `evaluate` module.
"""

import math
import sys
from collections.abc import Iterable, Sequence


def discounted_gain_at_k(ranking: Sequence[str], targets: Iterable[str], k: int) -> float:
    """
    Normalised discounted cumulative gain of one query among its first `k`, in percent.

    Args:
        ranking (`Sequence[str]`): Ranked ids, best first, each at most once.
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
    ranking, targets = ranking[:k], set(targets)
    if k < 1 or not targets:
        raise ValueError(f"Got {len(targets)} targets and k={k}, expected at least 1 of each.")
    if len(set(ranking)) < len(ranking):
        raise ValueError("An id occurs twice among the first k. A ranking holds each id once.")
    gain = sum(1 / math.log2(1 + place) for place, id_ in enumerate(ranking, start=1) if id_ in targets)
    best = sum(1 / math.log2(1 + place) for place in range(1, min(len(targets), k) + 1))
    return 100 * gain / best


def ndcg_at_k(rankings: Sequence[Sequence[str]], targets: Sequence[Iterable[str]], k: int) -> float:
    """
    Mean of [`discounted_gain_at_k`] over the queries, in percent.

    Args:
        rankings (`Sequence[Sequence[str]]`): Ranked ids of each query, best first.
        targets (`Sequence[Iterable[str]]`): The relevant ids of each query.
        k (`int`): How far down to look.

    Returns:
        `float`: In [0, 100].

    Raises:
        `ValueError`: There are no queries or the lengths differ, or as in [`discounted_gain_at_k`].

    Example:

    ```python
    >>> ndcg_at_k([["a", "b", "c"], ["b", "c", "a"]], [{"a"}, {"a"}], 3)
    75.0
    ```"""
    if not len(rankings) or len(rankings) != len(targets):
        raise ValueError(
            f"Got {len(rankings)} rankings and {len(targets)} sets of targets, expected equally many, at least one."
        )
    pairs = zip(rankings, targets, strict=True)
    return sum(discounted_gain_at_k(ranking, relevant, k) for ranking, relevant in pairs) / len(rankings)


# As when evaluate.load reads this file; the library itself is optional and slow to import.
if "evaluate" in sys.modules:
    import datasets
    import evaluate

    class NdcgAtK(evaluate.Metric):
        """nDCG@k as an `evaluate` module: `metric.compute(predictions=rankings, references=targets, ks=[5, 10])`."""

        def _info(self):
            ids = datasets.Sequence(datasets.Value("string"))
            return evaluate.MetricInfo(
                description="Mean over queries of the normalised discounted gain among the first k, in percent.",
                citation="",
                inputs_description=ndcg_at_k.__doc__,
                features=datasets.Features({"predictions": ids, "references": ids}),
            )

        def _compute(self, predictions, references, ks=(5, 10, 25, 50)):
            return {f"ndcg@{k}": ndcg_at_k(predictions, references, k) for k in ks}
