"""Metrics of ranked ids against hand counts and closed forms."""

from math import log2

import pytest

from contextcir.metrics.ranking import (
    average_precision_at_k,
    discounted_gain_at_k,
    hit_at_k,
    mean_over_queries,
    reciprocal_rank,
    share_at_k,
)

METRICS = (hit_at_k, share_at_k, average_precision_at_k, reciprocal_rank, discounted_gain_at_k)
RANKINGS = [["a", "b", "c", "d"], ["b", "a", "c", "d"], ["d", "c", "b", "a"]]


@pytest.mark.parametrize(
    "targets, k, hit, share",
    [
        ("a", 1, 100, 100),
        ("b", 1, 0, 0),
        ("bd", 2, 100, 50),
        ("cd", 2, 0, 0),
        ("abcd", 3, 100, 75),
        ("az", 5, 100, 50),  # "z" is not ranked
        ("z", 50, 0, 0),
    ],
)
def test_recall(targets, k, hit, share):
    assert hit_at_k(list("abcde"), set(targets), k) == hit
    assert share_at_k(list("abcde"), set(targets), k) == share


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
        ("bd", 3, 100 * (1 / 2) / 2),  # the second target is beyond k, and counts in the denominator
        ("abc", 2, 100),  # more targets than ranks: divided by the ranks
        ("axyz", 2, 100 * 1 / 2),
        ("axyz", 50, 100 * 1 / 4),
    ],
)
def test_average_precision(targets, k, expected):
    assert average_precision_at_k(list("abcde"), set(targets), k) == pytest.approx(expected)


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
def test_reciprocal_rank(targets, k, expected):
    assert reciprocal_rank(list("abcde"), set(targets), k) == pytest.approx(expected)


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
        ("bd", 3, 100 * (1 / log2(3)) / (1 + 1 / log2(3))),  # the second target is beyond k, and counts in the ideal
        ("abc", 2, 100),  # more targets than ranks: the best that fits
        ("axyz", 1, 100),
        ("axyz", 50, 100 / (1 + 1 / log2(3) + 1 / 2 + 1 / log2(5))),
        ("z", 50, 0),
    ],
)
def test_discounted_gain(targets, k, expected):
    assert discounted_gain_at_k(list("abcde"), set(targets), k) == pytest.approx(expected)


def test_the_discounted_gain_of_a_perfect_ranking_is_exactly_100():
    ids = [str(number) for number in range(50)]
    assert discounted_gain_at_k(ids, ids[:37], 50) == 100


@pytest.mark.parametrize("k, expected", [(1, 100 / 3), (2, 200 / 3), (3, 200 / 3), (4, 100), (50, 100)])
def test_mean_recall_with_one_target(k, expected):
    assert mean_over_queries(hit_at_k, RANKINGS, [{"a"}] * 3, k) == pytest.approx(expected)


def test_mean_recall_counts_a_query_with_several_targets_once():
    targets = [{"a", "b"}, {"c", "d"}, {"a", "d"}]
    assert mean_over_queries(hit_at_k, RANKINGS, targets, 1) == pytest.approx(200 / 3)
    assert mean_over_queries(hit_at_k, RANKINGS, targets, 4) == 100
    assert mean_over_queries(hit_at_k, RANKINGS, [{"z"}] * 3, 4) == 0


@pytest.mark.parametrize(
    "score, k, expected",
    [
        (average_precision_at_k, 3, 100 * (1 + 1 / 2 + 1 / 3) / 3),
        (reciprocal_rank, None, 100 * (1 + 1 / 2 + 1 / 3) / 3),
        (reciprocal_rank, 2, 50),
        (discounted_gain_at_k, 3, 100 * (1 + 1 / log2(3) + 1 / 2) / 3),
    ],
)
def test_mean_of_other_metrics(score, k, expected):
    rankings = [list("abc"), list("bac"), list("bca")]
    assert mean_over_queries(score, rankings, [{"a"}] * 3, k) == pytest.approx(expected)


@pytest.mark.parametrize("score", METRICS)
@pytest.mark.parametrize("k", [0, -1])
def test_k_below_1_is_an_error(score, k):
    with pytest.raises(ValueError, match=f"k={k}"):
        score(["a", "b"], {"a"}, k)


@pytest.mark.parametrize("score", METRICS[1:])
def test_a_query_without_target_is_an_error(score):
    with pytest.raises(ValueError, match="0 targets"):
        score(["a"], set(), 1)


@pytest.mark.parametrize("score", METRICS[1:])
def test_an_id_that_occurs_twice_is_an_error_among_the_first_k(score):
    with pytest.raises(ValueError, match="'b'.* 3"):
        score(["a", "b", "b"], {"a"}, 3)
    assert score(["a", "b", "b"], {"a"}, 2) == 100


@pytest.mark.parametrize("score", METRICS)
def test_numbers_of_rankings_and_targets_must_match(score):
    for rankings, targets in ([], []), ([["a"]], []), ([["a"]], [{"a"}, {"b"}]):
        with pytest.raises(ValueError, match=f"{len(rankings)} rankings.* {len(targets)} "):
            mean_over_queries(score, rankings, targets, 1)
