"""Hits@k and BRI against hand counts, closed forms and golden values."""

import json
import os
from math import log
from pathlib import Path

import numpy as np
import pytest

from contextcir.metrics.dialogues import dialogue_bri, dialogue_hits_at_k

RANKS = np.array([[10, 0, 9, 30], [9, 5, 400, 20], [70, 49_999, 1, 10]])  # (rounds, dialogues)


@pytest.mark.parametrize(
    "k, expected",
    [
        (1, [25, 25, 25]),
        (2, [25, 25, 50]),  # the third dialogue only in the last round
        (10, [50, 75, 75]),  # rank 10 is the eleventh place
        (11, [75, 75, 100]),
    ],
)
def test_a_dialogue_stays_hit(k, expected):
    assert dialogue_hits_at_k(RANKS, k).mean(axis=1).tolist() == expected


def test_hits_of_each_dialogue():
    assert dialogue_hits_at_k(RANKS, 10).tolist() == [[0, 100, 100, 0], [100, 100, 100, 0], [100, 100, 100, 0]]


@pytest.mark.parametrize(
    "ranks, expected",
    [
        ([0, 0, 0], 0),
        ([0, 50, 999], 0),  # the best rank so far counts
        ([7, 7], log(8)),
        ([7, 0], log(8) / 2),  # the trapezium between the two rounds
        ([7, 0, 0], log(8) / 4),
        ([7, 3, 5, 0], ((log(8) + log(4)) / 2 + (log(4) + log(4)) / 2 + (log(4) + 0) / 2) / 3),
    ],
)
def test_bri(ranks, expected):
    assert dialogue_bri(np.array([ranks, [0] * len(ranks)]).T) == pytest.approx([expected, 0])


@pytest.mark.parametrize("score", [dialogue_bri, lambda ranks: dialogue_hits_at_k(ranks, 10)], ids=["bri", "hits"])
@pytest.mark.parametrize(
    "ranks, message",
    [
        (RANKS[0], r"shape \(4,\)"),
        (np.empty((3, 0), dtype=int), r"shape \(3, 0\)"),
        (RANKS - 1, "from 0"),  # one is -1
        (RANKS / 2, "float64"),
    ],
)
def test_ranks_that_are_not_valid(score, ranks, message):
    with pytest.raises(ValueError, match=message):
        score(ranks)


def test_too_few_rounds_and_k_below_1():
    with pytest.raises(ValueError, match=r"shape \(1, 4\).* 2 rounds"):
        dialogue_bri(RANKS[:1])
    assert dialogue_hits_at_k(RANKS[:1], 10).tolist() == [[0, 100, 100, 0]]
    with pytest.raises(ValueError, match="k=0"):
        dialogue_hits_at_k(RANKS, 0)


@pytest.mark.skipif("CIR_DATA_ROOT" not in os.environ, reason="CIR_DATA_ROOT is not set: no golden ranks")
def test_golden_values():
    root = Path(os.environ["CIR_DATA_ROOT"]) / "golden"
    ranks = np.array(json.loads((root / "chat_retrieval_ranks.json").read_text()))
    golden = json.loads((root / "chat_retrieval_expected.json").read_text())
    exact, peer = golden["expected_exact"], golden["peer_outputs_float32"]["PlugIR"]
    for k in (1, 5, 10):
        hits = dialogue_hits_at_k(ranks, k).mean(axis=1)
        assert hits == pytest.approx([100 * count / 2064 for count in exact[f"hits@{k}_counts"]], rel=1e-15)
        assert hits == pytest.approx(peer[f"hits@{k}"], rel=1e-6)
    bri = dialogue_bri(ranks).mean()
    assert bri == pytest.approx(exact["BRI_float64"], rel=1e-14)
    assert bri == pytest.approx(peer["BRI"], rel=1e-6)
