"""Scores of chat retrieval: Hits@k, and BRI (the best log rank integral). A rank is the number of images above.

Both look at all rounds so far: who has found the image stops talking, so a dialogue that was hit once stays hit. A
round's own share, whatever came before, is recall@k of that round.
"""

import numpy as np


def dialogue_hits_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """
    Whether each dialogue was found in some round so far, as ChatIR counts it (Levy et al., NeurIPS 2023).

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
    if k < 1:
        raise ValueError(f"Got k={k}, expected at least 1.")
    return 100.0 * (_best_so_far(ranks, rounds=1) < k)


def hits_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """
    Mean of [`dialogue_hits_at_k`] over the dialogues, in percent. Arguments and errors as there.

    Returns:
        `np.ndarray` of shape `(rounds,)`: In [0, 100], never falling.

    Example:

    ```python
    >>> hits_at_k(np.array([[12, 5], [3, 70], [40, 80]]), 10).tolist()
    [50.0, 100.0, 100.0]
    ```"""
    return dialogue_hits_at_k(ranks, k).mean(axis=1)


def dialogue_bri(ranks: np.ndarray) -> np.ndarray:
    """
    Best log rank integral of each dialogue, as PlugIR defines it (Lee et al., ACL 2024): the logarithm of the best
    rank so far (from 1), integrated over the rounds by the trapezoidal rule and divided by their length.

    Args:
        ranks (`np.ndarray` of shape `(rounds, dialogues)`): How many images stand above the target, integers from 0.
            There are at least 2 rounds.

    Returns:
        `np.ndarray` of shape `(dialogues,)`: From 0 (always first) to the logarithm of the number of images. Lower is
        better.

    Raises:
        `ValueError`: The shape is another one, or a rank is negative or no integer.

    Example:

    ```python
    >>> dialogue_bri(np.array([[0, 7], [5, 7], [9, 7]])).round(6).tolist()
    [0.0, 2.079442]
    ```"""
    best = np.log(_best_so_far(ranks, rounds=2) + 1.0)  # (rounds, dialogues)
    return ((best[:-1] + best[1:]) / 2).mean(axis=0)


def bri(ranks: np.ndarray) -> float:
    """
    Mean of [`dialogue_bri`] over the dialogues. Arguments and errors as there.

    Example:

    ```python
    >>> round(bri(np.array([[0, 7], [5, 7], [9, 7]])), 6)
    1.039721
    ```"""
    return float(dialogue_bri(ranks).mean())


def _best_so_far(ranks: np.ndarray, rounds: int) -> np.ndarray:
    """The best rank of each dialogue up to each round, of ranks that are fit for a score."""
    ranks = np.asarray(ranks)
    if ranks.ndim != 2 or len(ranks) < rounds or not ranks.size or ranks.dtype.kind not in "iu" or ranks.min() < 0:
        raise ValueError(
            f"Got ranks of shape {ranks.shape} and type {ranks.dtype}, expected (rounds, dialogues) of integers from 0"
            f" with at least {rounds} rounds."
        )
    return np.minimum.accumulate(ranks, axis=0)
