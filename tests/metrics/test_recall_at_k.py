"""Recall@k against hand counts ."""

import pytest

from contextcir.metrics.ranking import recall_at_k

RANKINGS = [["a", "b", "c", "d"], ["b", "a", "c", "d"], ["d", "c", "b", "a"]]


@pytest.mark.parametrize("k, expected", [(1, 100 / 3), (2, 200 / 3), (3, 200 / 3), (4, 100), (50, 100)])
def test_one_target(k, expected):
    assert recall_at_k(RANKINGS, [{"a"}] * 3, k) == pytest.approx(expected)


def test_any_of_several_targets_counts_once():
    assert recall_at_k(RANKINGS, [{"a", "b"}, {"c", "d"}, {"a", "d"}], 1) == pytest.approx(200 / 3)
    assert recall_at_k(RANKINGS, [{"a", "b"}, {"c", "d"}, {"a", "d"}], 4) == 100


def test_a_target_that_was_not_ranked_is_not_found():
    assert recall_at_k(RANKINGS, [{"z"}] * 3, 4) == 0


@pytest.mark.parametrize("arguments", [([], [], 1), (RANKINGS, [{"a"}] * 2, 1), (RANKINGS, [{"a"}] * 3, 0)])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="rankings|k=0"):
        recall_at_k(*arguments)
