"""95 % intervals of means over queries: the percentile bootstrap (Efron, 1979).

The queries of a benchmark are a sample, and another sample would give another mean. Drawing queries with replacement,
as many as there are, and taking the mean each time shows by how much. Where the benchmark's number is a mean over
parts, as FashionIQ's over its three categories, each part is resampled within itself. What it cannot show: where all
queries score the same the interval has no width, however few they are.

A draw is kept as how often each query came up, so that one matrix product gives the means of all metrics, and as few
draws are held at once as memory allows. Neither changes a result: draws depend on the seed and the number of queries.
"""

import warnings
from collections.abc import Sequence

import numpy as np

LEVEL = (0.025, 0.975)  # the quantiles that bound the middle 95 %
BLOCK = 2**22  # counts held at once: 32 MiB in float64


def resampled_means(values: np.ndarray, *, resamples: int = 2000, seed: int | np.random.Generator = 0) -> np.ndarray:
    """
    Means over queries that were drawn with replacement, as many as there are.

    Args:
        values (`np.ndarray` of shape `(queries,)` or `(queries, metrics)`): Scores of each query. NaN where a metric
            is not defined for a query, which is then left out of the mean.
        resamples (`int`, *optional*, defaults to 2000): How often to draw.
        seed (`int` or `np.random.Generator`, *optional*, defaults to 0): What the draws depend on, besides the number
            of queries: all metrics share them.

    Returns:
        `np.ndarray` of shape `(resamples,)` or `(resamples, metrics)`: NaN where no drawn query has the metric.

    Raises:
        `ValueError`: There are no queries, the shape is another one, or `resamples` is less than 1.

    Example:

    ```python
    >>> resampled_means(np.array([0.0, 100.0]), resamples=1000).mean().round(-1)
    np.float64(50.0)
    >>> resampled_means(np.full((3, 2), 50.0), resamples=4).shape
    (4, 2)
    ```"""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or not len(values) or resamples < 1:
        raise ValueError(
            f"Got values of shape {values.shape} and resamples={resamples}, expected (queries,) or (queries, metrics)"
            " with at least one query, and at least one resample."
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
        with np.errstate(invalid="ignore"):  # 0 / 0 where no drawn query has the metric
            block[:] = counts @ filled / (queries if complete else counts @ defined.astype(np.float64))
    return means


def interval(
    parts: Sequence[np.ndarray], *, resamples: int = 2000, seed: int = 0
) -> tuple[float | np.ndarray, float | np.ndarray]:
    """
    95 % interval of the mean over parts of the means over each part's queries.

    Args:
        parts (`Sequence[np.ndarray]` of shapes `(queries,)` or `(queries, metrics)`): Scores of the queries of each
            part, mostly of one. All metrics at once take little longer than one.
        resamples (`int`, *optional*, defaults to 2000): How often to draw.
        seed (`int`, *optional*, defaults to 0): What the draws depend on.

    Returns:
        `tuple[float, float]`, or of two `np.ndarray` of shape `(metrics,)`: The lower and the upper bound. Draws in
        which a part has no query with the metric are left out; NaN where all are.

    Raises:
        `ValueError`: There are no parts, they have different metrics, or as in [`resampled_means`].

    Example:

    ```python
    >>> found = np.repeat([100.0, 0.0], 200)  # half of 400 queries: a standard error of 2.5 points
    >>> low, high = interval([found])
    >>> round(low), round(high)
    (45, 55)
    ```"""
    if len({np.shape(part)[1:] for part in parts}) != 1:
        raise ValueError(
            f"Got parts of shapes {[np.shape(part) for part in parts]}, expected at least one, and the same metrics"
            " in all."
        )
    generator = np.random.default_rng(seed)
    means = sum(resampled_means(part, resamples=resamples, seed=generator) for part in parts) / len(parts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = np.nanquantile(means, LEVEL, axis=0)
    return (float(low), float(high)) if means.ndim == 1 else (low, high)


def paired_difference(
    parts_a: Sequence[np.ndarray], parts_b: Sequence[np.ndarray], *, resamples: int = 2000, seed: int = 0
) -> dict[str, float | int | np.ndarray]:
    """
    By how much b is above a on the same queries, with its 95 % interval.

    Each draw takes the same queries for both, so that what is hard for both cancels out: the interval is that of the
    queries' differences, mostly far narrower than those of the two means suggest.

    Args:
        parts_a (`Sequence[np.ndarray]` of shapes `(queries,)` or `(queries, metrics)`): Scores of each part's queries.
        parts_b (`Sequence[np.ndarray]`): The same of the other, in the same order.
        resamples (`int`, *optional*, defaults to 2000): How often to draw.
        seed (`int`, *optional*, defaults to 0): What the draws depend on.

    Returns:
        `dict`: `difference` (b - a), the bounds `low` and `high` of its interval, and `num_queries`, those of all
        parts that have the metric. Numbers, or of shape `(metrics,)`.

    Raises:
        `ValueError`: The shapes differ, a query has a metric in only one of the two, or as in [`interval`].

    Example:

    ```python
    >>> hard = np.array([0.0, 100.0, 0.0, 100.0])
    >>> paired_difference([hard], [hard + 1])
    {'difference': 1.0, 'low': 1.0, 'high': 1.0, 'num_queries': 4}
    ```"""
    parts_a, parts_b = ([np.asarray(part, dtype=np.float64) for part in parts] for parts in (parts_a, parts_b))
    shapes_a, shapes_b = ([part.shape for part in parts] for parts in (parts_a, parts_b))
    if shapes_a != shapes_b:
        raise ValueError(f"Got parts of shapes {shapes_a} and {shapes_b}, expected the same queries in both.")
    differences = [b - a for a, b in zip(parts_a, parts_b, strict=True)]
    for place, (a, b) in enumerate(zip(parts_a, parts_b, strict=True)):
        if (np.isnan(a) != np.isnan(b)).any():
            query = np.argwhere(np.isnan(a) != np.isnan(b))[0, 0]
            raise ValueError(
                f"Query {query} of part {place} has a score in one of the two only. Where a metric is not defined for"
                " a query, it is so for both."
            )
    low, high = interval(differences, resamples=resamples, seed=seed)
    defined = [~np.isnan(part) for part in differences]
    with np.errstate(invalid="ignore"):
        means = [np.nansum(part, axis=0) / some.sum(axis=0) for part, some in zip(differences, defined, strict=True)]
    difference, num_queries = sum(means) / len(means), sum(some.sum(axis=0) for some in defined)
    if np.ndim(difference) == 0:
        difference, num_queries = float(difference), int(num_queries)
    return {"difference": difference, "low": low, "high": high, "num_queries": num_queries}
