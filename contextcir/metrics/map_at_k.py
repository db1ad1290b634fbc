"""mAP@k: the mean over queries of the average precision among the first k, for queries with several targets.

As CIRCO defines it (Baldrati et al., ICCV 2023): the precision at each place that holds a target, summed over the
first k places and divided by the most targets that these can hold, `min(number of targets, k)`.

`evaluate.load("contextcir/metrics/map_at_k.py")` gives the metric as an `evaluate` module.
"""

import sys
from collections.abc import Iterable, Sequence


def average_precision_at_k(ranking: Sequence[str], targets: Iterable[str], k: int) -> float:
    """
    Average precision of one query among its first `k`, in percent.

    Args:
        ranking (`Sequence[str]`): Ranked ids, best first, each at most once.
        targets (`Iterable[str]`): The relevant ids.
        k (`int`): How far down to look.

    Returns:
        `float`: In [0, 100]; 100 where the first places hold targets only, as many as there are or as fit.

    Raises:
        `ValueError`: There is no target, an id occurs twice in the ranking, or `k` is less than 1.

    Example:

    ```python
    >>> average_precision_at_k(["a", "b", "c", "d"], {"a", "d"}, 4)
    75.0
    ```"""
    ranking, targets = ranking[:k], set(targets)
    if k < 1 or not targets:
        raise ValueError(f"Got {len(targets)} targets and k={k}, expected at least 1 of each.")
    if len(set(ranking)) < len(ranking):
        raise ValueError("An id occurs twice among the first k. A ranking holds each id once.")
    found, precisions = 0, 0.0
    for place, id_ in enumerate(ranking, start=1):
        if id_ in targets:
            found += 1
            precisions += found / place
    return 100 * precisions / min(len(targets), k)


def map_at_k(rankings: Sequence[Sequence[str]], targets: Sequence[Iterable[str]], k: int) -> float:
    """
    Mean of [`average_precision_at_k`] over the queries, in percent.

    Args:
        rankings (`Sequence[Sequence[str]]`): Ranked ids of each query, best first.
        targets (`Sequence[Iterable[str]]`): The relevant ids of each query.
        k (`int`): How far down to look.

    Returns:
        `float`: In [0, 100].

    Raises:
        `ValueError`: There are no queries or the lengths differ, or as in [`average_precision_at_k`].

    Example:

    ```python
    >>> map_at_k([["a", "b"], ["b", "a"]], [{"a"}, {"a"}], 2)
    75.0
    ```"""
    if not len(rankings) or len(rankings) != len(targets):
        raise ValueError(
            f"Got {len(rankings)} rankings and {len(targets)} sets of targets, expected equally many, at least one."
        )
    pairs = zip(rankings, targets, strict=True)
    return sum(average_precision_at_k(ranking, relevant, k) for ranking, relevant in pairs) / len(rankings)


# As when evaluate.load reads this file; the library itself is optional and slow to import.
if "evaluate" in sys.modules:
    import datasets
    import evaluate

    class MapAtK(evaluate.Metric):
        """mAP@k as an `evaluate` module: `metric.compute(predictions=rankings, references=targets, ks=[5, 10])`."""

        def _info(self):
            ids = datasets.Sequence(datasets.Value("string"))
            return evaluate.MetricInfo(
                description="Mean over queries of the average precision among the first k, in percent.",
                citation="",
                inputs_description=map_at_k.__doc__,
                features=datasets.Features({"predictions": ids, "references": ids}),
            )

        def _compute(self, predictions, references, ks=(5, 10, 25, 50)):
            return {f"map@{k}": map_at_k(predictions, references, k) for k in ks}
