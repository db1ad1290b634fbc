"""BRI, the best log rank integral of chat retrieval: how soon and how high the target comes. Lower is better.

As PlugIR defines it (Lee et al., ACL 2024): of each dialogue the logarithm of the best rank so far, integrated over
the rounds by the trapezoidal rule and divided by their length. Ranks start at 1 inside the logarithm, so that a target
that is first from the beginning gives 0.

`evaluate.load("contextcir/metrics/bri.py")` gives the metric as an `evaluate` module.
"""

import sys

import numpy as np


def dialogue_bri(ranks: np.ndarray) -> np.ndarray:
    """
    Best log rank integral of each dialogue.

    Args:
        ranks (`np.ndarray` of shape `(rounds, dialogues)`): How many images stand above the target, integers from 0.
            There are at least 2 rounds.

    Returns:
        `np.ndarray` of shape `(dialogues,)`: From 0 to the logarithm of the number of images.

    Raises:
        `ValueError`: The shape is another one, or a rank is negative or no integer.

    Example:

    ```python
    >>> dialogue_bri(np.array([[0, 7], [5, 7], [9, 7]])).round(6).tolist()
    [0.0, 2.079442]
    ```"""
    ranks = np.asarray(ranks)
    if ranks.ndim != 2 or len(ranks) < 2 or not ranks.size or ranks.dtype.kind not in "iu" or ranks.min() < 0:
        raise ValueError(
            f"Got ranks of shape {ranks.shape} and type {ranks.dtype}, expected (rounds, dialogues) of integers from 0"
            " with at least 2 rounds."
        )
    best = np.log(np.minimum.accumulate(ranks, axis=0) + 1.0)  # (rounds, dialogues)
    return ((best[:-1] + best[1:]) / 2).mean(axis=0)


def bri(ranks: np.ndarray) -> float:
    """
    Mean of [`dialogue_bri`] over the dialogues.

    Args:
        ranks (`np.ndarray` of shape `(rounds, dialogues)`): How many images stand above the target, integers from 0.
            There are at least 2 rounds.

    Returns:
        `float`: From 0 to the logarithm of the number of images.

    Raises:
        `ValueError`: as [`dialogue_bri`].

    Example:

    ```python
    >>> round(bri(np.array([[0, 7], [5, 7], [9, 7]])), 6)
    1.039721
    ```"""
    return float(dialogue_bri(ranks).mean())


# As when evaluate.load reads this file; the library itself is optional and slow to import.
if "evaluate" in sys.modules:
    import datasets
    import evaluate

    class BRI(evaluate.Metric):
        """BRI as an `evaluate` module: `metric.compute(predictions=ranks)`, a row of ranks for each dialogue, round by
        round."""

        def _info(self):
            return evaluate.MetricInfo(
                description="Mean logarithm of the best rank so far, integrated over rounds. Lower is better.",
                citation="",
                inputs_description=bri.__doc__,
                features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))}),
            )

        def _compute(self, predictions):
            return {"bri": bri(np.array(predictions).T)}
