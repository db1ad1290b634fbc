"""What a random ranking scores: the floor beside every number.

A ranking of `size` images, `targets` of them relevant, in uniformly random order: the expectation of each metric in
closed form.
"""

from math import comb


def chance(metric: str, k: int, size: int, targets: int) -> float:
    """
    Expected value of a metric for a random ranking, in percent.

    Args:
        metric (`str`): `recall` (any target among the first k), `recall_share` (the share of the targets that is) or
            `map`.
        k (`int`): How far down it looks.
        size (`int`): Images that are ranked.
        targets (`int`): How many of them are relevant.

    Returns:
        `float`: In [0, 100].

    Raises:
        `ValueError`: for an unknown metric, or where `targets` is not in 1 to `size`.

    Example:

    ```python
    >>> chance("recall", 1, 5, 1), chance("map", 10, 4, 4)
    (20.0, 100.0)
    ```"""
    if not 1 <= targets <= size or k < 1:
        raise ValueError(
            f"Got {targets} targets among {size} images and k={k}, expected 1 <= targets <= images, k >= 1."
        )
    k = min(k, size)
    if metric == "recall":
        return 100 - 100 * comb(size - targets, k) / comb(size, k)
    if metric == "recall_share":
        return 100 * k / size
    if metric == "map":
        # A place holds a target with probability targets / size; given that, each place above holds one of the others.
        others = (targets - 1) / (size - 1) if size > 1 else 0.0
        precisions = sum((1 + (place - 1) * others) / place for place in range(1, k + 1))
        return 100 * targets / size * precisions / min(targets, k)
    raise ValueError(f"There is no closed form for {metric!r}.")
