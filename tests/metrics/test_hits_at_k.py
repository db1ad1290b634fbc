"""Hits@k and its rounds against hand counts, the golden ranks ."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from contextcir.metrics.dialogues import dialogue_hits_at_k, hits_at_k

needs_real_data = pytest.mark.skipif("CIR_DATA_ROOT" not in os.environ, reason="CIR_DATA_ROOT is not set: no ranks")
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
def test_once_hit_stays_hit(k, expected):
    assert hits_at_k(RANKS, k).tolist() == expected


def test_each_dialogue():
    assert dialogue_hits_at_k(RANKS, 10).tolist() == [[0, 100, 100, 0], [100, 100, 100, 0], [100, 100, 100, 0]]


@pytest.mark.parametrize(
    ("ranks", "k", "message"),
    [
        (RANKS[0], 10, r"shape \(4,\)"),
        (np.empty((3, 0), dtype=int), 10, r"shape \(3, 0\)"),
        (RANKS - 1, 10, "integers from 0"),  # one is -1 now
        (RANKS / 2, 10, "type float64"),
        (RANKS, 0, "k=0"),
    ],
)
def test_bad_arguments(ranks, k, message):
    with pytest.raises(ValueError, match=message):
        hits_at_k(ranks, k)


@needs_real_data
@pytest.mark.parametrize("k", [1, 5, 10])
def test_golden_values(k):
    root = Path(os.environ["CIR_DATA_ROOT"]) / "golden"
    ranks = np.array(json.loads((root / "chat_retrieval_ranks.json").read_text()))
    golden = json.loads((root / "chat_retrieval_expected.json").read_text())
    counts = golden["expected_exact"][f"hits@{k}_counts"]
    assert hits_at_k(ranks, k) == pytest.approx([100 * count / 2064 for count in counts], rel=1e-15)
    of_peer = golden["peer_outputs_float32"]["PlugIR"][f"hits@{k}"]
    assert hits_at_k(ranks, k) == pytest.approx(of_peer, rel=1e-6)
