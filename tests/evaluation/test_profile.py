"""Mistakes by kind, counted by hand, and those of random rankings."""

import random
from dataclasses import replace

import numpy as np
import pytest

from contextcir.evaluation.profile import DEPTH, _expected_above, error_profile, format_profiles
from contextcir.retrieval.base import Gallery, Ranking
from tests.benchmarks.test_base import IDS, tiny_benchmark, tiny_ranking

# q1: reference a, target b. q2: reference b, targets c and h.
WRONG = {"q1": {"a": "reference", "c": "partial", "d": "copy"}, "q2": {"b": "reference", "d": "partial"}}


def profiled(ranking=None, **changes):
    part = tiny_benchmark(**changes)
    part.queries = [
        replace(query, tags=tags)
        for query, tags in zip(
            part.queries, (("split:iid", "edits:1", "kind:add"), ("split:iid", "edits:2")), strict=True
        )
    ]
    part.distractors = WRONG
    return error_profile(part, ranking or tiny_ranking())


def test_by_hand():
    # The ranking of q1 is c, b, ...; of q2 d, c, ...
    profile = profiled()
    assert list(profile) == ["all", "split:iid", "edits:1", "edits:2"]
    everything = profile["all"]
    assert everything == profile["split:iid"]
    assert (everything["num_queries"], everything["recall@1"]) == (2, 0)
    assert list(everything["kinds"]) == ["target", "copy", "partial", "unrelated"]  # the reference is not ranked
    assert everything["kinds"]["partial"] == {
        "rank1": 100,
        "rank1_chance": pytest.approx(100 / 7),  # one of seven in both
        "above": 1,
        "above_chance": pytest.approx((6 / 2 / 6 + 5 / 3 / 5) / 2),
    }
    assert everything["kinds"]["copy"]["rank1_chance"] == pytest.approx(100 / 7 / 2)  # in one query only
    assert everything["kinds"]["copy"]["rank1"] == everything["kinds"]["copy"]["above"] == 0
    assert everything["kinds"]["target"]["rank1_chance"] == pytest.approx((100 / 7 + 200 / 7) / 2)
    assert [profile[tag]["kinds"]["copy"]["rank1_chance"] > 0 for tag in ("edits:1", "edits:2")] == [True, False]


def test_the_shares_at_rank_1_sum_to_100():
    rng = random.Random(0)
    for _ in range(6):
        ids = [rng.sample([id_ for id_ in IDS if id_ != own], 7) for own in "ab"]
        kinds = profiled(Ranking(["q1", "q2"], ids, candidate_ids=[list("bcd"), list("cde")]))["all"]["kinds"]
        assert sum(row["rank1"] for row in kinds.values()) == pytest.approx(100)
        assert sum(row["rank1_chance"] for row in kinds.values()) == pytest.approx(100)


def test_a_kept_reference_is_a_mistake():
    ranking = tiny_ranking(gallery_ids=[list("bdch"), list("abde")])
    kinds = profiled(ranking, exclude_reference=False)["all"]["kinds"]
    assert kinds["reference"]["rank1"] == 100 and kinds["reference"]["rank1_chance"] == pytest.approx(100 / 8)


def test_expected_above_is_the_mean_of_random_rankings():
    rng = random.Random(0)
    order = list("abcdefgh")  # the targets are a and b
    above = []
    for _ in range(4000):
        rng.shuffle(order)
        above.append(min(order.index("a"), order.index("b"), 3))
    assert _expected_above(8, 2, 3) == pytest.approx(np.mean(above), abs=0.05)
    assert _expected_above(8, 2, DEPTH) == pytest.approx(
        6 / 3
    )  # each of six others is above both with probability 1/3
    assert _expected_above(5, 5, DEPTH) == 0


def test_only_the_first_ranks_are_counted():
    ids = [str(number) for number in range(DEPTH + 10)]
    queries = [replace(query, candidate_ids=()) for query in tiny_benchmark().queries]
    gallery = Gallery([*ids, "a", "b", "c", "h"], [None] * (len(ids) + 4))
    part = tiny_benchmark(
        gallery=gallery, queries=queries, metrics={"recall": (1,)}, distractors={"q1": {"a": "near"}}
    )
    kinds = error_profile(part, Ranking(["q1", "q2"], [[*ids, "b"], [*ids, "c"]]))["all"]["kinds"]
    assert kinds["unrelated"]["above"] == DEPTH  # also for q2, which has no known mistakes


def test_tables():
    text = format_profiles({"runs/mine": profiled(), "CLIP": profiled()})
    first, second, third = text.split("\n\n", 5)[1::2]
    assert first.splitlines()[0].split() == ["target", "copy", "partial", "unrelated"]
    assert first.splitlines()[1].split() == ["runs/mine", "0.00", "0.00", "100.00", "0.00"]
    assert first.splitlines()[3].split()[0] == second.splitlines()[3].split()[0] == "chance"
    assert third.splitlines()[0].split() == ["all", "iid", "edits:1", "edits:2"]
    assert third.splitlines()[-1].split() == ["queries", "2", "2", "1", "1"]
    for table in (first, second, third):
        assert len({len(line) for line in table.splitlines()}) == 1
