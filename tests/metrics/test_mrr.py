"""MRR against hand counts."""

import pytest

from contextcir.metrics.ranking import mrr, reciprocal_rank


@pytest.mark.parametrize(
    "targets, k, expected",
    [
        ("a", None, 100),
        ("b", None, 50),
        ("e", None, 20),
        ("db", None, 50),  # the first of several
        ("z", None, 0),
        ("c", 3, 100 / 3),
        ("c", 2, 0),
        ("c", 50, 100 / 3),
    ],
)
def test_one_query(targets, k, expected):
    assert reciprocal_rank(list("abcde"), set(targets), k) == pytest.approx(expected)


def test_the_mean_over_queries():
    rankings, targets = [list("abc"), list("bac"), list("bca")], [{"a"}] * 3
    assert mrr(rankings, targets) == pytest.approx(100 * (1 + 1 / 2 + 1 / 3) / 3)
    assert mrr(rankings, targets, 2) == pytest.approx(50)


def test_bad_arguments():
    for rankings, targets in ([], []), ([["a"]], []):
        with pytest.raises(ValueError, match="rankings"):
            mrr(rankings, targets)
    with pytest.raises(ValueError, match="0 targets"):
        mrr([["a"]], [set()])
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"k={k}"):
            mrr([["a", "b"]], [{"a"}], k)
    with pytest.raises(ValueError, match="twice"):
        mrr([["b", "b", "a"]], [{"a"}])
    assert mrr([["a", "b", "b"]], [{"a"}], 2) == 100  # as far as is looked
