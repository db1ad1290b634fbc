"""95 % intervals of means over queries: the percentile bootstrap (Efron, 1979).

The queries of a benchmark are a sample; another sample would give another mean. The bootstrap draws as many queries
with replacement, takes their mean, and repeats this. If a benchmark is reported by the mean over parts, as FashionIQ
by its three categories, each part is resampled separately. One limit: if all queries have the same score, the interval
has no width, however few they are.

A draw is stored as the count of each query. Then one matrix product gives the means of all metrics. Draws are computed
in blocks to bound the memory. Neither changes the result: draws depend on the seed and the number of queries only.
"""

import warnings
from collections.abc import Sequence

import numpy as np

LEVEL = (0.025, 0.975)  # quantiles that bound the middle 95 %
BLOCK = 2**22  # counts in memory at a time: 32 MiB in float64


def resampled_means(values: np.ndarray, *, resamples: int = 2000, seed: int | np.random.Generator = 0) -> np.ndarray:
    """
    Compute means over queries drawn with replacement, as many as there are.

    Args:
        values (`np.ndarray` of shape `(num_queries,)` or `(num_queries, num_metrics)`): Scores of each query. NaN if
            a query does not have a metric: it is left out of the mean.
        resamples (`int`, *optional*, defaults to 2000): Number of draws.
        seed (`int` or `np.random.Generator`, *optional*, defaults to 0): Seed of the draws. All metrics share them.

    Returns:
        `np.ndarray` of shape `(resamples,)` or `(resamples, num_metrics)`: NaN if no drawn query has the metric.

    Raises:
        `ValueError`: There are no queries, the shape is another one, or `resamples` is less than 1.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or not len(values) or resamples < 1:
        raise ValueError(
            f"Got values of shape {values.shape} and resamples={resamples}, expected (num_queries,) or (num_queries,"
            " num_metrics) with at least one query, and at least one resample."
        )
    queries, defined = len(values), ~np.isnan(values)
    filled = np.where(defined, values, 0.0)
    complete = defined.all()
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, *values.shape[1:]))
    rows = min(resamples, max(1, BLOCK // queries))
    buffer = np.empty((rows, queries))
    for start in range(0, resamples, rows):
        block = means[start : start + rows]
        counts = buffer[: len(block)]
        for row in counts:
            row[:] = np.bincount(generator.integers(queries, size=queries), minlength=queries)
        with np.errstate(invalid="ignore"):  # 0 / 0 if no drawn query has the metric
            block[:] = counts @ filled / (queries if complete else counts @ defined.astype(np.float64))
    return means


def interval(parts: Sequence[np.ndarray], *, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """
    Compute the 95 % interval of the mean over parts of the means over queries.

    Args:
        parts (`Sequence[np.ndarray]`): The `values` of each part as for [`resampled_means`], often of one part only.
            All metrics at once take little longer than one.
        resamples (`int`, *optional*, defaults to 2000): Number of draws.
        seed (`int`, *optional*, defaults to 0): Seed of the draws.

    Returns:
        `np.ndarray` of shape `(2,)` or `(2, num_metrics)`: The lower and the upper bound. Draws in which a part has
        no query with the metric are left out; NaN if all are.

    Raises:
        `ValueError`: There are no parts, they have different metrics, or as for [`resampled_means`].

    Example:

    ```python
    >>> found = np.repeat([100.0, 0.0], 200)  # half of 400 queries: a standard error of 2.5 points
    >>> low, high = interval([found])
    >>> round(low), round(high)
    (45, 55)
    ```"""
    if len({np.shape(part)[1:] for part in parts}) != 1:
        raise ValueError(
            f"Got parts of shapes {[np.shape(part) for part in parts]}, expected at least one part, and the same"
            " metrics in all."
        )
    generator = np.random.default_rng(seed)
    means = np.mean([resampled_means(part, resamples=resamples, seed=generator) for part in parts], axis=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.nanquantile(means, LEVEL, axis=0)


def mean_over_parts(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over parts of the means over queries. `parts` as for [`interval`]; NaN if a part has no query
    with the metric."""
    with np.errstate(invalid="ignore"):  # 0 / 0
        return np.mean([np.nansum(part, axis=0) / (~np.isnan(part)).sum(axis=0) for part in parts], axis=0)


def paired_difference(
    parts_a: Sequence[np.ndarray], parts_b: Sequence[np.ndarray], *, resamples: int = 2000, seed: int = 0
) -> dict[str, np.ndarray]:
    """
    Compute by how much b is above a on the same queries, with its 95 % interval.

    Each draw takes the same queries for both, so queries that are hard for both cancel out. The interval is that of
    the differences of the queries. It is often far narrower than the intervals of the two means suggest.

    Args:
        parts_a (`Sequence[np.ndarray]`): Scores of a, as for [`interval`].
        parts_b (`Sequence[np.ndarray]`): Scores of b on the same queries, in the same order.
        resamples (`int`, *optional*, defaults to 2000): Number of draws.
        seed (`int`, *optional*, defaults to 0): Seed of the draws.

    Returns:
        `dict[str, np.ndarray]` of shape `()` or `(num_metrics,)`: `difference` (b - a), the bounds `low` and `high`
        of its interval, and `num_queries`, how many queries of all parts have the metric.

    Raises:
        `ValueError`: The shapes differ, only one of the two has a score for a query, or as for [`interval`].

    Example:

    ```python
    >>> hard = np.array([0.0, 100.0, 0.0, 100.0])
    >>> {name: value.item() for name, value in paired_difference([hard], [hard + 1]).items()}
    {'difference': 1.0, 'low': 1.0, 'high': 1.0, 'num_queries': 4}
    ```"""
    parts_a, parts_b = ([np.asarray(part, dtype=np.float64) for part in parts] for parts in (parts_a, parts_b))
    shapes_a, shapes_b = ([part.shape for part in parts] for parts in (parts_a, parts_b))
    if shapes_a != shapes_b:
        raise ValueError(f"Got parts of shapes {shapes_a} and {shapes_b}, expected the same queries in both.")
    for place, (a, b) in enumerate(zip(parts_a, parts_b, strict=True)):
        if (only := np.isnan(a) != np.isnan(b)).any():
            raise ValueError(
                f"Query {np.argwhere(only)[0, 0]} of part {place} has a score in one of the two only. Measure both"
                " with the same metrics."
            )
    differences = [b - a for a, b in zip(parts_a, parts_b, strict=True)]
    low, high = interval(differences, resamples=resamples, seed=seed)
    num_queries = np.sum([(~np.isnan(part)).sum(axis=0) for part in differences], axis=0)
    return {"difference": mean_over_parts(differences), "low": low, "high": high, "num_queries": num_queries}
