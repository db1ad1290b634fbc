"""Metrics of chat retrieval: Hits@k, and the best log rank integral (BRI), of each dialogue.

Ranks count from 0: the number of images ranked above the target. Both metrics use the best rank of all rounds so far,
since a user who has found the image ends the dialogue. For one round alone, compute recall@k of that round.
"""

import numpy as np


def dialogue_hits_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """
    Whether each dialogue has had its target among the first `k` in some round so far (ChatIR, Levy et al., NeurIPS
    2023). Hits@k of a round is the mean over the dialogues.

    Args:
        ranks (`np.ndarray` of shape `(rounds, dialogues)`): Ranks of the targets, integers from 0.
        k (`int`): Number of ranks that count.

    Returns:
        `np.ndarray` of shape `(rounds, dialogues)`: 0 or 100, never decreasing over the rounds.

    Raises:
        `ValueError`: The shape is wrong or empty, a rank is negative or not an integer, or `k` is less than 1.

    Example:

    ```python
    >>> dialogue_hits_at_k(np.array([[12], [3], [40]]), 10).tolist()
    [[0.0], [100.0], [100.0]]
    ```"""
    if k < 1:
        raise ValueError(f"Got k={k}, expected at least 1.")
    return 100.0 * (_best_so_far(ranks, rounds=1) < k)


def dialogue_bri(ranks: np.ndarray) -> np.ndarray:
    """
    Best log rank integral of each dialogue (PlugIR, Lee et al., ACL 2024): the logarithm of the best rank so far
    (from 1), integrated over the rounds by the trapezoidal rule and divided by the number of steps. BRI is the mean
    over the dialogues.

    Args:
        ranks (`np.ndarray` of shape `(rounds, dialogues)`): Ranks of the targets, integers from 0; at least 2 rounds.

    Returns:
        `np.ndarray` of shape `(dialogues,)`: From 0 (always first) to the logarithm of the number of images. Lower is
        better.

    Raises:
        `ValueError`: The shape is wrong, or a rank is negative or not an integer.

    Example:

    ```python
    >>> dialogue_bri(np.array([[0, 7], [5, 7], [9, 7]])).round(6).tolist()
    [0.0, 2.079442]
    ```"""
    best = np.log(_best_so_far(ranks, rounds=2) + 1.0)  # (rounds, dialogues)
    return ((best[:-1] + best[1:]) / 2).mean(axis=0)


def _best_so_far(ranks: np.ndarray, rounds: int) -> np.ndarray:
    ranks = np.asarray(ranks)
    if ranks.ndim != 2 or len(ranks) < rounds or not ranks.size or ranks.dtype.kind not in "iu" or ranks.min() < 0:
        raise ValueError(
            f"Got ranks of shape {ranks.shape} and type {ranks.dtype}, expected integers from 0 of shape"
            f" (rounds, dialogues) with at least {rounds} rounds."
        )
    return np.minimum.accumulate(ranks, axis=0)
