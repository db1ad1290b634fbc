"""The quick form of `research.bench.data`."""

import json

from contextcir.cli.options import as_flags
from research.bench import data
from tests.tiny_triplets import dataset, triplets


def test_read_and_encoded_images_are_measured(clip_folder, tmp_path):
    dataset(triplets(8)).to_parquet(tmp_path / "triplets" / "train-00000.parquet")
    options = {"data": tmp_path / "triplets", "clip": clip_folder, "batch-size": 2, "steps": 2, "repeats": 1}
    options |= {"workers": 0, "threads": 1, "ceiling-workers": 1, "output": tmp_path / "out.json"}
    result = data.main(as_flags(options))
    assert json.loads((tmp_path / "out.json").read_text()) == result
    assert [row["encoded"] for row in result["rows"]] == [False, True]
    for row in result["rows"]:
        assert 0 < row["share_waiting"] < 1 and row["seconds_per_step"] > 0
        assert row["met"] == (row["rate"] >= 0.9)
    reading = result["ceilings"]
    assert [(row["images"], row["workers"]) for row in reading] == [("scenes", 1), ("photographs", 1)]
    assert all(row["images_per_second"] > 0 for row in reading)
