"""BRI against closed forms, the golden ranks ."""

import json
import os
from math import log
from pathlib import Path

import numpy as np
import pytest

from contextcir.metrics.dialogues import bri, dialogue_bri

needs_real_data = pytest.mark.skipif("CIR_DATA_ROOT" not in os.environ, reason="CIR_DATA_ROOT is not set: no ranks")


@pytest.mark.parametrize(
    "ranks, expected",
    [
        ([0, 0, 0], 0),  # first from the beginning
        ([0, 50, 999], 0),  # and then lost: the best rank so far counts
        ([7, 7], log(8)),
        ([7, 0], log(8) / 2),  # the trapezium between the two rounds
        ([7, 0, 0], log(8) / 4),
        ([7, 3, 5, 0], ((log(8) + log(4)) / 2 + (log(4) + log(4)) / 2 + (log(4) + 0) / 2) / 3),
    ],
)
def test_one_dialogue(ranks, expected):
    assert dialogue_bri(np.array([ranks]).T) == pytest.approx([expected])


def test_the_mean_over_dialogues():
    assert bri(np.array([[7, 0], [7, 0]])) == pytest.approx(log(8) / 2)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([3, 4], r"shape \(2,\)"),
        ([[3, 4]], "at least 2 rounds"),
        ([[3, 4], [-1, 4]], "integers from 0"),
        ([[3.5, 4], [1, 4]], "type float64"),
        ([[], []], r"shape \(2, 0\)"),
    ],
)
def test_bad_arguments(ranks, message):
    with pytest.raises(ValueError, match=message):
        bri(np.array(ranks))


@needs_real_data
def test_golden_value():
    root = Path(os.environ["CIR_DATA_ROOT"]) / "golden"
    ranks = np.array(json.loads((root / "chat_retrieval_ranks.json").read_text()))
    golden = json.loads((root / "chat_retrieval_expected.json").read_text())
    assert bri(ranks) == pytest.approx(golden["expected_exact"]["BRI_float64"], rel=1e-14)
    assert bri(ranks) == pytest.approx(golden["peer_outputs_float32"]["PlugIR"]["BRI"], rel=1e-6)
