"""The quick form of `research.bench.training_steps`."""

import json

import pytest

from research.bench import training_steps
from tests.tiny_triplets import dataset, triplets


@pytest.mark.slow
def test_steps_of_two_trainers_are_compared(clip_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(training_steps, "WIDTHS", [20, 10])
    monkeypatch.setattr(training_steps, "COMPILER", "eager")
    dataset(triplets(12)).to_parquet(tmp_path / "triplets" / "train-00000.parquet")
    paths = ["--data", str(tmp_path / "triplets"), "--clip", str(clip_folder), "--output", str(tmp_path / "out.json")]
    result = training_steps.main(["--quick", *paths])
    assert json.loads((tmp_path / "out.json").read_text()) == result
    order, widths, mined, compiled = result["rows"]
    assert order["apart"] and order["ratio"] > 0
    assert widths["ratio"] == pytest.approx(widths["seconds"][0] / widths["seconds"][1])
    more, fewer = mined["images"]
    assert more > fewer and mined["ratio"] == pytest.approx(mined["seconds"][0] / mined["seconds"][1] / more * fewer)
    assert compiled["compiling"] > 0 and compiled["goal"] == ""
