"""Expected scores of a random ranking: the chance level of each metric, in closed form.

The ranking holds `size` images in uniformly random order, and `targets` of them are relevant.
"""

from math import comb


def chance(metric: str, k: int, size: int, targets: int) -> float:
    """
    Expected value of a metric for a random ranking, in percent.

    Args:
        metric (`str`): `recall` (any target among the first `k`), `recall_share` (share of the targets among the first
            `k`) or `map`.
        k (`int`): Number of ranks that count.
        size (`int`): Number of ranked images.
        targets (`int`): Number of relevant images among them.

    Returns:
        `float`: In [0, 100].

    Raises:
        `ValueError`: The metric is unknown, `targets` is not in 1 to `size`, or `k` is less than 1.

    Example:

    ```python
    >>> chance("recall", 1, 5, 1), chance("map", 10, 4, 4)
    (20.0, 100.0)
    ```"""
    if not 1 <= targets <= size or k < 1:
        raise ValueError(f"Got targets={targets}, size={size} and k={k}, expected 1 <= targets <= size and k >= 1.")
    k = min(k, size)
    if metric == "recall":
        return 100 - 100 * comb(size - targets, k) / comb(size, k)
    if metric == "recall_share":
        return 100 * k / size
    if metric == "map":
        # A rank holds a target with probability targets / size. Then each rank above holds one of the other targets
        # with probability (targets - 1) / (size - 1).
        others = (targets - 1) / (size - 1) if size > 1 else 0.0
        precisions = sum((1 + (rank - 1) * others) / rank for rank in range(1, k + 1))
        return 100 * targets / size * precisions / min(targets, k)
    raise ValueError(f"Got the metric {metric!r}, expected recall, recall_share or map.")
