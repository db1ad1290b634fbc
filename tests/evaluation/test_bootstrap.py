"""Bootstrap intervals against closed forms: the normal approximation, coverage, and paired differences."""

import re
import tracemalloc
from math import sqrt

import numpy as np
import pytest

from contextcir.evaluation import bootstrap
from contextcir.evaluation.bootstrap import interval, paired_difference, resampled_means
from tests.benchmarks.layouts import refuses


def hits(queries: int, share: float) -> np.ndarray:
    """0 or 100 for each query: 100 for exactly this share of them."""
    return np.where(np.arange(queries) < share * queries, 100.0, 0.0)


def test_one_query_or_equal_queries_have_no_width():
    assert interval([np.array([40.0])]).tolist() == [40, 40]
    assert interval([np.full(50, 100 / 3)]) == pytest.approx((100 / 3, 100 / 3), abs=1e-12)
    assert interval([np.full(5, 20.0), np.full(7, 40.0)]) == pytest.approx((30, 30), abs=1e-12)


def test_hits_have_the_interval_of_the_normal_approximation():
    queries, share = 4000, 0.3
    half = 1.96 * 100 * sqrt(share * (1 - share) / queries)  # 1.42 points
    assert interval([hits(queries, share)]) == pytest.approx((30 - half, 30 + half), abs=0.1)


def test_parts_are_resampled_separately_and_have_equal_weight():
    parts = [hits(4000, 0.5), hits(500, 0.1), hits(1000, 0.9)]
    variances = [0.5 * 0.5 / 4000, 0.1 * 0.9 / 500, 0.9 * 0.1 / 1000]
    half = 1.96 * 100 * sqrt(sum(variances)) / 3
    assert interval(parts) == pytest.approx((50 - half, 50 + half), abs=0.1)
    # Pooled parts would have another middle; equal draws for all parts would give a wider interval.
    half = 1.96 * 100 * sqrt(0.25 / 1000 / 4)
    assert interval([hits(1000, 0.5)] * 4) == pytest.approx((50 - half, 50 + half), abs=0.1)


def test_19_of_20_intervals_contain_the_true_mean():
    generator = np.random.default_rng(1)
    sets = np.where(generator.random((200, 600)) < 0.4, 100.0, 0.0)  # 600 benchmarks of 200 queries each
    low, high = interval([sets], resamples=1000)
    assert 0.92 < np.mean((low <= 40) & (high >= 40)) < 0.97
    assert 0.01 < np.mean(high < 40) < 0.05 and 0.01 < np.mean(low > 40) < 0.05  # equally often on both sides


def test_metrics_together_are_the_metrics_alone():
    values = np.random.default_rng(2).uniform(0, 100, (300, 3))
    values[:40, 1] = np.nan
    together = resampled_means(values, resamples=50)
    assert together.shape == (50, 3)
    for column in range(3):
        alone = resampled_means(values[:, column], resamples=50)
        assert alone.shape == (50,)
        np.testing.assert_allclose(together[:, column], alone, rtol=1e-12)
    bounds = interval([values, values[:100]])
    assert bounds.shape == (2, 3)
    assert bounds[:, 2] == pytest.approx(interval([values[:, 2], values[:100, 2]]))


def test_results_depend_on_the_seed_and_not_on_the_blocks(monkeypatch):
    values = np.random.default_rng(3).uniform(0, 100, 90)
    once = resampled_means(values, resamples=70, seed=5)
    np.testing.assert_array_equal(once, resampled_means(values, resamples=70, seed=5))
    assert (once != resampled_means(values, resamples=70, seed=6)).any()
    assert (interval([values], seed=5) == interval([values], seed=5)).all()
    assert (interval([values], seed=5) != interval([values], seed=6)).any()
    monkeypatch.setattr(bootstrap, "BLOCK", 90 * 16)
    np.testing.assert_allclose(resampled_means(values, resamples=70, seed=5), once, rtol=1e-12)
    monkeypatch.setattr(bootstrap, "BLOCK", 1)  # less than one resample
    np.testing.assert_allclose(resampled_means(values, resamples=70, seed=5), once, rtol=1e-12)


def test_undefined_scores_are_left_out():
    values = np.full(4000, np.nan)
    values[::4] = hits(1000, 0.5)
    half = 1.96 * 100 * sqrt(0.25 / 1000)
    assert interval([values]) == pytest.approx((50 - half, 50 + half), abs=0.2)

    one = np.array([np.nan, 70.0])
    means = resampled_means(one, resamples=2000)
    assert np.isnan(means).mean() == pytest.approx(0.25, abs=0.04)  # the defined query was not drawn
    assert set(means[~np.isnan(means)]) == {70}
    assert interval([one]).tolist() == [70, 70]


def test_defined_for_no_query_gives_no_interval(recwarn):
    nothing = np.array([[np.nan, 1.0], [np.nan, 1.0]])
    np.testing.assert_array_equal(interval([nothing]), [[np.nan, 1], [np.nan, 1]])
    found = paired_difference([nothing], [nothing])
    np.testing.assert_array_equal(found["difference"], [np.nan, 0])
    np.testing.assert_array_equal(found["num_queries"], [0, 2])
    assert not recwarn.list


def test_identical_scores_differ_by_exactly_0():
    parts = [np.random.default_rng(4).uniform(0, 100, size) for size in (30, 50)]
    assert paired_difference(parts, parts) == {"difference": 0, "low": 0, "high": 0, "num_queries": 80}


def test_pairing_cancels_hard_queries():
    hard = np.random.default_rng(5).uniform(0, 99, 400)
    found = paired_difference([hard], [hard + 1])
    assert (found["difference"], found["low"], found["high"]) == pytest.approx((1, 1, 1))
    low, high = interval([hard])
    assert high - low > 4  # unpaired, one point is within chance


def test_the_difference_of_hits_has_the_interval_of_mcnemar():
    # Of 4,000 queries b finds 300 that a does not, a finds 100 that b does not, and they agree on the rest.
    a = np.concatenate([np.zeros(300), np.full(100, 100.0), hits(3600, 0.5)])
    b = np.concatenate([np.full(300, 100.0), np.zeros(100), hits(3600, 0.5)])
    half = 1.96 * 100 * sqrt((400 / 4000 - (200 / 4000) ** 2) / 4000)
    found = paired_difference([a], [b])
    assert (found["difference"], found["num_queries"]) == (5, 4000)
    assert (found["low"], found["high"]) == pytest.approx((5 - half, 5 + half), abs=0.1)
    back = paired_difference([b], [a])
    assert (back["difference"], back["low"], back["high"]) == pytest.approx((-5, -found["high"], -found["low"]))


def test_differences_of_parts_and_of_several_metrics():
    a = [np.array([[0.0, 10.0], [0.0, np.nan]]), np.array([[50.0, 20.0]])]
    b = [np.array([[100.0, 16.0], [100.0, np.nan]]), np.array([[50.0, 22.0]])]
    found = paired_difference(a, b)
    np.testing.assert_allclose(found["difference"], [50, 4])
    np.testing.assert_allclose([found["low"], found["high"]], [[50, 4], [50, 4]])
    np.testing.assert_array_equal(found["num_queries"], [3, 2])


@pytest.mark.parametrize("values", [np.array([]), np.zeros((0, 3)), np.float64(1), np.zeros((2, 2, 2))])
def test_values_of_another_shape_are_refused(values):
    refuses(re.escape(f"{values.shape} "), resampled_means, values)


def test_bad_arguments():
    refuses("resamples=0", resampled_means, np.zeros(2), resamples=0)
    refuses(r"\[\]", interval, [])
    refuses(r"\(2, 3\), \(2, 1\)", interval, [np.zeros((2, 3)), np.zeros((2, 1))])
    refuses(r"\[\(2,\)\] .*\[\(3,\)\]", paired_difference, [np.zeros(2)], [np.zeros(3)])
    refuses(r"\[\(2,\)\] .*\[\(2,\), \(2,\)\]", paired_difference, [np.zeros(2)], [np.zeros(2), np.zeros(2)])
    refuses("Query 1 of part 1 ", paired_difference, [np.zeros(2), np.zeros(2)], [np.zeros(2), np.array([0, np.nan])])


def test_memory_is_bounded():
    values = np.zeros((40_000, 8))
    tracemalloc.start()
    try:
        resampled_means(values, resamples=400)  # all counts at once would be 128 MB
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6
