"""The closed forms equal the mean over all permutations."""

from itertools import permutations

import pytest

from contextcir.metrics.chance import chance
from contextcir.metrics.ranking import average_precision_at_k, hit_at_k, share_at_k

SCORES = {"recall": hit_at_k, "recall_share": share_at_k, "map": average_precision_at_k}


@pytest.mark.parametrize("metric", SCORES)
@pytest.mark.parametrize("size, targets", [(1, 1), (4, 1), (5, 2), (5, 4), (4, 4)])
def test_mean_over_all_permutations(metric, size, targets):
    for k in (1, 2, 3, 50):
        scores = [SCORES[metric](order, range(targets), k) for order in permutations(range(size))]
        assert chance(metric, k, size, targets) == pytest.approx(sum(scores) / len(scores))


@pytest.mark.parametrize("k, size, targets", [(0, 5, 1), (1, 5, 0), (1, 5, 6), (1, 0, 0)])
def test_numbers_out_of_range(k, size, targets):
    with pytest.raises(ValueError, match=f"targets={targets}, size={size} and k={k}"):
        chance("recall", k, size, targets)


def test_an_unknown_metric():
    with pytest.raises(ValueError, match="'mrr'"):
        chance("mrr", 1, 5, 1)
