"""Results of a retriever: means over queries and parts, intervals, lines of queries, the table."""

import numpy as np
import pytest

from contextcir.evaluation.results import format_table, query_lines, summarise
from tests.benchmarks.test_base import tiny_benchmark, tiny_ranking


def parts():
    return [tiny_benchmark(part=part, metrics={"recall": (1, 2), "recall_subset": (1,)}) for part in ("one", "two")]


SCORES = [  # of two queries in each part
    {"recall@1": np.zeros(2), "recall@2": np.full(2, 100.0), "recall_subset@1": np.array([100.0, np.nan])},
    {"recall@1": np.array([100.0, 0.0]), "recall@2": np.full(2, 100.0), "recall_subset@1": np.zeros(2)},
]


def test_several_parts_are_reported_by_their_mean():
    result = summarise("mine", parts(), SCORES)
    assert result["metrics"] == {"recall@1": 25, "recall@2": 100, "recall_subset@1": 50}
    assert result["parts"]["two"] == {"recall@1": 50, "recall@2": 100, "recall_subset@1": 0}
    low, high = result["intervals"]["recall@1"]
    assert low == 0 and high == 50  # the second part's two queries drawn with replacement, the first is always 0
    assert result["intervals"]["recall@2"] == [100, 100]
    assert result["by_tag"]["easy"] == {"num_queries": 2, "recall@1": 50, "recall@2": 100, "recall_subset@1": 50}


def test_one_part_is_not_repeated():
    assert summarise("mine", parts()[:1], SCORES[:1])["parts"] == {}


def test_lines_of_queries():
    lines = list(query_lines("mine", parts(), [tiny_ranking()] * 2, SCORES))
    assert [(line["part"], line["id"]) for line in lines] == [
        ("one", "q1"),
        ("one", "q2"),
        ("two", "q1"),
        ("two", "q2"),
    ]
    assert lines[0]["top"] == list("cbde") and lines[0]["scores"]["recall_subset@1"] == 100
    assert lines[1]["scores"] == {"recall@1": 0, "recall@2": 100, "recall_subset@1": None}


def test_the_table_is_aligned_and_names_parts():
    record = {
        "protocol_id": "tiny/test",
        "num_queries": 4,
        "gallery_size": 1234,
        "results": [summarise("a retriever with a long name", parts(), SCORES)],
        "chance": {"recall@1": 12.5, "recall@2": 25.0, "recall_subset@1": 33.3},
    }
    lines = format_table(record).splitlines()
    assert lines[0] == "tiny/test: 4 queries, 1,234 images, in percent with 95 % intervals"
    assert len({len(line) for line in lines[3:7]}) == 1
    assert lines[4].split()[-3:] == ["25.00", "100.00", "50.00"]
    assert lines[5].split() == ["0.0-50.0", "100.0-100.0", "50.0-50.0"]
    assert lines[6].split() == ["chance", "12.50", "25.00", "33.30"]
    assert "one, two: a retriever" in lines[8]
    assert [line.split() for line in lines[10:]] == [
        ["recall@1", "recall@2", "recall_subset@1"],
        ["one", "0.00", "100.00", "100.00"],
        ["two", "50.00", "100.00", "0.00"],
    ]


def test_tags_average_the_queries_with_the_metric():
    tagged = summarise("mine", parts()[:1], SCORES[:1])["by_tag"]
    assert tagged["short"]["recall_subset@1"] == pytest.approx(100)  # q1's; q2 has none
