"""The share of time that training waits for data, in small: what is reported adds up."""

import json

from research.bench import data
from tests.tiny_triplets import dataset, triplets


def test_both_ways_to_feed_images_are_measured(clip_folder, tmp_path):
    dataset(triplets(8)).to_parquet(tmp_path / "triplets" / "train-00000.parquet")
    options = {"data": tmp_path / "triplets", "clip": clip_folder, "batch-size": 2, "steps": 2, "repeats": 1}
    options |= {"workers": 0, "output": tmp_path / "out.json"}
    result = data.main([word for name, value in options.items() for word in (f"--{name}", str(value))])
    assert json.loads((tmp_path / "out.json").read_text()) == result
    assert [row["encoded"] for row in result["rows"]] == [False, True]
    for row in result["rows"]:
        assert 0 < row["share_waiting"] < 1 and row["seconds_per_step"] > 0
        assert row["met"] == (row["rate"] >= 0.9)
