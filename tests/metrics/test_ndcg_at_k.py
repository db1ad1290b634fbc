"""nDCG@k against closed forms."""

from math import log2

import pytest

from contextcir.metrics.ranking import discounted_gain_at_k, ndcg_at_k


@pytest.mark.parametrize(
    "targets, k, expected",
    [
        ("a", 1, 100),
        ("b", 1, 0),
        ("b", 2, 100 / log2(3)),
        ("c", 5, 50),  # 1 / log2(4)
        ("c", 2, 0),
        ("ab", 5, 100),
        ("ac", 5, 100 * (1 + 1 / 2) / (1 + 1 / log2(3))),
        ("bd", 3, 100 * (1 / log2(3)) / (1 + 1 / log2(3))),  # the second is beyond k and still counts below the line
        ("abc", 2, 100),  # more targets than places: the best that fits
        ("axyz", 1, 100),
        ("axyz", 50, 100 / (1 + 1 / log2(3) + 1 / 2 + 1 / log2(5))),
        ("z", 50, 0),
    ],
)
def test_one_query(targets, k, expected):
    assert discounted_gain_at_k(list("abcde"), set(targets), k) == pytest.approx(expected)


def test_a_perfect_ranking_is_exactly_100():
    ids = [str(number) for number in range(50)]
    assert discounted_gain_at_k(ids, ids[:37], 50) == 100


def test_the_mean_over_queries():
    assert ndcg_at_k([list("abc"), list("bca")], [{"a"}, {"a"}], 3) == pytest.approx(75)


def test_bad_arguments():
    for rankings, targets in ([], []), ([["a"]], []):
        with pytest.raises(ValueError, match="rankings"):
            ndcg_at_k(rankings, targets, 1)
    with pytest.raises(ValueError, match="0 targets"):
        ndcg_at_k([["a"]], [set()], 1)
    with pytest.raises(ValueError, match="k=0"):
        ndcg_at_k([["a"]], [{"a"}], 0)
    with pytest.raises(ValueError, match="twice"):
        ndcg_at_k([["a", "a"]], [{"a"}], 2)
    assert ndcg_at_k([["a", "b", "b"]], [{"a"}], 2) == 100  # as far as is looked
