"""The bound equals the recall of the best fixed answers."""

import random
from itertools import product

import pytest

from contextcir.metrics.bound import recall_at_1_bound


def test_by_hand():
    assert recall_at_1_bound("aaab", [{"x"}, {"y"}, {"x", "z"}, {"y"}]) == 75
    assert recall_at_1_bound("abcd", [{"x"}] * 4) == 100
    assert recall_at_1_bound("aaaa", [{"w"}, {"x"}, {"y"}, {"z"}]) == 25
    assert recall_at_1_bound("ab", [{"x"}, set()]) == 50  # a query without target is never answered


def test_the_bound_is_the_best_of_all_answers():
    rng = random.Random(0)
    for _ in range(50):
        seen = [rng.choice("ab") for _ in range(6)]
        targets = [set(rng.sample("wxyz", rng.randint(1, 2))) for _ in range(6)]
        best = max(
            sum({"a": a, "b": b}[look] in own for look, own in zip(seen, targets, strict=True))
            for a, b in product("wxyz", repeat=2)
        )
        assert recall_at_1_bound(seen, targets) == pytest.approx(100 * best / 6)


@pytest.mark.parametrize("seen, targets", [([], []), (["a"], []), (["a"], [{"x"}, {"y"}])])
def test_numbers_of_queries_and_targets_must_match(seen, targets):
    with pytest.raises(ValueError, match=f"{len(seen)} queries and {len(targets)} "):
        recall_at_1_bound(seen, targets)
