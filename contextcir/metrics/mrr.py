"""MRR: the mean over queries of one over the place of the first target, in percent.

With `k` it is MRR@k, which counts nothing below the first k, as MS MARCO has it at 10. A ranking that was cut gives
MRR@k for the length that it was cut to: compare only what looks equally far down.

`evaluate.load("contextcir/metrics/mrr.py")` gives the metric as an `evaluate` module.
"""

import sys
from collections.abc import Iterable, Sequence


def reciprocal_rank(ranking: Sequence[str], targets: Iterable[str], k: int | None = None) -> float:
    """
    One over the place of the first target of one query, in percent: 100 for the first place, 50 for the second.

    Args:
        ranking (`Sequence[str]`): Ranked ids, best first, each at most once.
        targets (`Iterable[str]`): The relevant ids.
        k (`int`, *optional*): How far down to look; by default to the end of the ranking.

    Returns:
        `float`: In [0, 100]; 0 where no target is found.

    Raises:
        `ValueError`: There is no target, an id occurs twice as far as is looked, or `k` is less than 1.

    Example:

    ```python
    >>> reciprocal_rank(["b", "a", "c"], {"a", "c"}), reciprocal_rank(["b", "a", "c"], {"a", "c"}, 1)
    (50.0, 0.0)
    ```"""
    ranking, targets = ranking[:k], set(targets)
    if not targets or (k is not None and k < 1):
        raise ValueError(f"Got {len(targets)} targets and k={k}, expected at least 1 of each.")
    if len(set(ranking)) < len(ranking):
        raise ValueError("An id occurs twice. A ranking holds each id once.")
    return next((100 / place for place, id_ in enumerate(ranking, start=1) if id_ in targets), 0.0)


def mrr(rankings: Sequence[Sequence[str]], targets: Sequence[Iterable[str]], k: int | None = None) -> float:
    """
    Mean of [`reciprocal_rank`] over the queries, in percent.

    Args:
        rankings (`Sequence[Sequence[str]]`): Ranked ids of each query, best first.
        targets (`Sequence[Iterable[str]]`): The relevant ids of each query.
        k (`int`, *optional*): How far down to look; by default to the end of each ranking.

    Returns:
        `float`: In [0, 100].

    Raises:
        `ValueError`: There are no queries or the lengths differ, or as in [`reciprocal_rank`].

    Example:

    ```python
    >>> mrr([["a", "b"], ["b", "a"]], [{"a"}, {"a"}])
    75.0
    ```"""
    if not len(rankings) or len(rankings) != len(targets):
        raise ValueError(
            f"Got {len(rankings)} rankings and {len(targets)} sets of targets, expected equally many, at least one."
        )
    pairs = zip(rankings, targets, strict=True)
    return sum(reciprocal_rank(ranking, relevant, k) for ranking, relevant in pairs) / len(rankings)


# As when evaluate.load reads this file; the library itself is optional and slow to import.
if "evaluate" in sys.modules:
    import datasets
    import evaluate

    class MRR(evaluate.Metric):
        """MRR as an `evaluate` module: `metric.compute(predictions=rankings, references=targets)`, or with `k=10`."""

        def _info(self):
            ids = datasets.Sequence(datasets.Value("string"))
            return evaluate.MetricInfo(
                description="Mean over queries of one over the place of the first target, in percent.",
                citation="",
                inputs_description=mrr.__doc__,
                features=datasets.Features({"predictions": ids, "references": ids}),
            )

        def _compute(self, predictions, references, k=None):
            return {"mrr" if k is None else f"mrr@{k}": mrr(predictions, references, k)}
