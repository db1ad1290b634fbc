"""Hits@k of chat retrieval: the share of dialogues that were found in some round up to this one.

As ChatIR counts it (Levy et al., NeurIPS 2023): who found the image stops talking, so a dialogue that was hit once
stays hit. A round's own share, whatever came before, is recall@k of that round.

`evaluate.load("contextcir/metrics/hits_at_k.py")` gives the metric as an `evaluate` module.
"""

import sys

import numpy as np


def dialogue_hits_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """
    Whether each dialogue was found, round by round: 100 from the first round on in which it was, before that 0.

    Args:
        ranks (`np.ndarray` of shape `(rounds, dialogues)`): How many images stand above the target, integers from 0.
        k (`int`): How far down to look.

    Returns:
        `np.ndarray` of shape `(rounds, dialogues)`: 0 or 100.

    Raises:
        `ValueError`: The shape is another one or empty, a rank is negative or no integer, or `k` is less than 1.

    Example:

    ```python
    >>> dialogue_hits_at_k(np.array([[12], [3], [40]]), 10).tolist()
    [[0.0], [100.0], [100.0]]
    ```"""
    ranks = np.asarray(ranks)
    if ranks.ndim != 2 or not ranks.size or ranks.dtype.kind not in "iu" or ranks.min() < 0 or k < 1:
        raise ValueError(
            f"Got ranks of shape {ranks.shape} and type {ranks.dtype} and k={k}, expected (rounds, dialogues) of"
            " integers from 0, and k of at least 1."
        )
    return 100.0 * (np.minimum.accumulate(ranks, axis=0) < k)


def hits_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """
    Mean of [`dialogue_hits_at_k`] over the dialogues, in percent.

    Args:
        ranks (`np.ndarray` of shape `(rounds, dialogues)`): How many images stand above the target, integers from 0.
        k (`int`): How far down to look.

    Returns:
        `np.ndarray` of shape `(rounds,)`: In [0, 100], never falling.

    Raises:
        `ValueError`: as [`dialogue_hits_at_k`].

    Example:

    ```python
    >>> hits_at_k(np.array([[12, 5], [3, 70], [40, 80]]), 10).tolist()
    [50.0, 100.0, 100.0]
    ```"""
    return dialogue_hits_at_k(ranks, k).mean(axis=1)


# As when evaluate.load reads this file; the library itself is optional and slow to import.
if "evaluate" in sys.modules:
    import datasets
    import evaluate

    class HitsAtK(evaluate.Metric):
        """Hits@k as an `evaluate` module: `metric.compute(predictions=ranks, ks=[10])`, a row of ranks for each
        dialogue, round by round."""

        def _info(self):
            return evaluate.MetricInfo(
                description="Share of dialogues with the target among the first k in some round so far, in percent.",
                citation="",
                inputs_description=hits_at_k.__doc__,
                features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))}),
            )

        def _compute(self, predictions, ks=(10,)):
            by_round = {k: hits_at_k(np.array(predictions).T, k) for k in ks}
            return {f"hits@{k}/r{turn}": float(hits) for k in ks for turn, hits in enumerate(by_round[k])}
