"""Margins and ranks, counted by hand."""

import numpy as np
import pytest

from contextcir.evaluation.separation import ANY, first_ranks, ranked_scores, score_margins
from tests.benchmarks.test_base import IDS, tiny_benchmark

# q1: reference a, target b. q2: reference b, targets c and h.
WRONG = {"q1": {"a": "reference", "c": "partial", "d": "copy"}, "q2": {"d": "partial", "e": "partial"}}
SCORES = np.zeros((2, len(IDS)))
SCORES[0, [IDS.index(id_) for id_ in "abcd"]] = 9, 5, 6, 2
SCORES[1, [IDS.index(id_) for id_ in "bcdeh"]] = 8, 1, 3, 4, 7


@pytest.fixture
def part():
    part = tiny_benchmark()
    part.distractors = WRONG
    return part


def test_by_hand(part):
    assert first_ranks(part, SCORES).tolist() == [2, 1]  # c is before b; the references are not ranked
    margins = score_margins(part, SCORES)
    assert {kind: values.tolist() for kind, values in margins.items()} == {
        ANY: [-1, 3],
        "partial": [-1, 3],
        "copy": [3],
    }


def test_a_kept_reference_counts(part):
    part.exclude_reference = False
    assert first_ranks(part, SCORES).tolist() == [3, 2]
    assert score_margins(part, SCORES)["reference"].tolist() == [-4]


def test_equal_scores_are_not_above(part):
    scores = np.zeros_like(SCORES)
    assert first_ranks(part, scores).tolist() == [len(IDS) - 1, len(IDS) - 2]  # behind all that are ranked
    assert score_margins(part, scores)[ANY].tolist() == [0, 0]


def test_the_given_scores_are_left_alone(part):
    before = SCORES.copy()
    assert np.isneginf(ranked_scores(part, SCORES)[0, IDS.index("a")])
    assert (before == SCORES).all()
