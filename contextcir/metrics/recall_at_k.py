"""Recall@k: the share of queries with a target among the first k.

As CIRR (Liu et al., ICCV 2021) and FashionIQ count it; a query with several targets is found when any of them is. The
same function over a query's candidates is CIRR's recall_subset@k.

`evaluate.load("contextcir/metrics/recall_at_k.py")` gives the metric as an `evaluate` module.
"""

import sys
from collections.abc import Iterable, Sequence


def recall_at_k(rankings: Sequence[Sequence[str]], targets: Sequence[Iterable[str]], k: int) -> float:
    """
    Share of queries with at least one target among their first `k`, in percent.

    Args:
        rankings (`Sequence[Sequence[str]]`): Ranked ids of each query, best first.
        targets (`Sequence[Iterable[str]]`): The relevant ids of each query.
        k (`int`): How far down to look.

    Returns:
        `float`: In [0, 100].

    Raises:
        `ValueError`: There are no queries, the lengths differ, or `k` is less than 1.
    """
    if k < 1 or not len(rankings) or len(rankings) != len(targets):
        raise ValueError(
            f"Got {len(rankings)} rankings, {len(targets)} sets of targets and k={k}, expected equally many, at least"
            " one, and k of at least 1."
        )
    found = sum(not set(relevant).isdisjoint(ranking[:k]) for ranking, relevant in zip(rankings, targets, strict=True))
    return 100 * found / len(rankings)


if (
    "evaluate" in sys.modules
):  # as when evaluate.load reads this file; the library itself is optional and slow to import
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
