"""mAP@k against closed forms."""

import pytest

from contextcir.metrics.ranking import average_precision_at_k, map_at_k


@pytest.mark.parametrize(
    "targets, k, expected",
    [
        ("a", 1, 100),
        ("b", 1, 0),
        ("b", 2, 100 / 2),
        ("c", 5, 100 / 3),
        ("ab", 5, 100),
        ("ac", 5, 100 * (1 / 1 + 2 / 3) / 2),
        ("bd", 4, 100 * (1 / 2 + 2 / 4) / 2),
        ("bd", 3, 100 * (1 / 2) / 2),  # the second is beyond k and still counts below the line
        ("abc", 2, 100),  # more targets than places: divided by the places
        ("axyz", 2, 100 * 1 / 2),
        ("axyz", 50, 100 * 1 / 4),
    ],
)
def test_average_precision(targets, k, expected):
    assert average_precision_at_k(list("abcde"), set(targets), k) == pytest.approx(expected)


def test_the_mean_over_queries():
    assert map_at_k([list("abc"), list("bac")], [{"a"}, {"a"}], 3) == pytest.approx(75)


def test_bad_arguments():
    for rankings, targets in ([], []), ([["a"]], []):
        with pytest.raises(ValueError, match="rankings"):
            map_at_k(rankings, targets, 1)
    with pytest.raises(ValueError, match="0 targets"):
        map_at_k([["a"]], [set()], 1)
    with pytest.raises(ValueError, match="k=0"):
        map_at_k([["a"]], [{"a"}], 0)
    with pytest.raises(ValueError, match="twice"):
        map_at_k([["a", "a"]], [{"a"}], 2)
