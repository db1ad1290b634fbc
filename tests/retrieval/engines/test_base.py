"""Measuring recall, digests of rows, and exact search's own extras."""

import pytest
import torch

from contextcir.retrieval.engines.base import RecallReport, measure_recall, require_recall, row_digests
from contextcir.retrieval.engines.exact import REMEMBERED, ExactIndex
from contextcir.retrieval.filters import Condition
from tests.retrieval.engines.rows import FACTS, IDS, QUERY, VECTORS, ids_of, unit


class Finds:
    """An index that finds what it is told."""

    def __init__(self, found):
        self.found = found

    def search(self, queries, k, where=()):
        return [[(id_, 0.0) for id_ in some[:k]] for some in self.found]


def test_recall_is_the_mean_share_of_the_true_best():
    exact = ExactIndex(IDS, VECTORS)
    queries = torch.cat([QUERY, -QUERY])
    found = [[*IDS[:8], IDS[30], IDS[31]], IDS[::-1]]
    assert measure_recall(Finds(found), exact, queries) == RecallReport(pytest.approx(0.9), 2)
    assert measure_recall(Finds([[], IDS[::-1]]), exact, queries).recall == pytest.approx(0.5)
    assert measure_recall(Finds([IDS[10:]] * 2), exact, queries, k=3).recall == 0
    assert measure_recall(exact, exact, queries) == RecallReport(1, 2)


def test_recall_in_a_gallery_that_is_smaller_than_k():
    assert measure_recall(Finds([IDS[:2]]), ExactIndex(IDS[:3], VECTORS[:3]), QUERY).recall == pytest.approx(2 / 3)


def test_recall_among_copies_of_one_image():
    rows = torch.cat([VECTORS[:9], VECTORS[9:10].expand(4, -1), VECTORS[10:20]])
    ids = [f"{row:02d}" for row in range(len(rows))]
    exact = ExactIndex(ids, rows)
    assert measure_recall(Finds([[*ids[:9], "12"]]), exact, QUERY).recall == 1
    assert measure_recall(Finds([[*ids[:9], "13"]]), exact, QUERY).recall == pytest.approx(0.9)
    assert measure_recall(Finds([["09", "10", "11", "12"]]), exact, QUERY).recall == pytest.approx(0.4)


def test_too_little_recall_is_refused():
    require_recall(RecallReport(0.95, 200))
    with pytest.raises(ValueError, match=r"0\.949 .*200.*0\.95"):
        require_recall(RecallReport(0.949, 200))
    require_recall(RecallReport(0.5, 200), 0.5)


def test_digests_of_rows():
    first = row_digests(VECTORS, FACTS)
    assert len(set(first)) == 70 and all(len(one) == 16 for one in first)
    assert row_digests(VECTORS[5:7], {name: values[5:7] for name, values in reversed(FACTS.items())}) == first[5:7]
    assert row_digests(VECTORS[:2], {"colour": [None, None]}) == row_digests(VECTORS[:2], {})
    assert row_digests(VECTORS[:1].half(), {}) == row_digests(VECTORS[:1].half().float(), {})
    others = [{"colour": ["red"]}, {"colour": ["1"]}, {"colour": [1]}, {"color": ["red"]}, {}]
    assert len({row_digests(VECTORS[:1], facts)[0] for facts in others}) == 5


def test_exact_search_takes_queries_in_parts():
    rows, parts = unit(20, dim=4).abs(), unit(4, 1, dim=4).abs().unflatten(0, (2, 2))
    scores = ((rows @ parts[0, 0]).relu() * (rows @ parts[0, 1]).relu()).sort(descending=True)
    found = ExactIndex([str(row) for row in range(20)], rows).search(parts, 3)[0]
    assert found == [(str(int(row)), pytest.approx(float(score))) for score, row in zip(*scores, strict=True)][:3]


def test_filters_are_remembered_until_something_changes():
    index = ExactIndex(IDS, VECTORS, FACTS)
    red = [Condition("colour", "=", ("red",))]
    before = index.search(QUERY, 99, red)
    assert index.search(QUERY, 99, red) == before and len(index.state.allowed) == 1
    for number in range(2 * REMEMBERED):
        index.search(QUERY, 1, [Condition("price", "<", (number,))])
    assert len(index.state.allowed) <= REMEMBERED
    index.add(["another"], QUERY, {"colour": ["red"]})
    assert ids_of(index.search(QUERY, 99, red)) == [["another", *ids_of(before)[0]]]


def test_equal_scores_in_the_order_of_the_rows():
    index = ExactIndex(["z", "a", "m"], VECTORS[:1].expand(3, -1))
    assert ids_of(index.search(QUERY, 2)) == [["z", "a"]]
