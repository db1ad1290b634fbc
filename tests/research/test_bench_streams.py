"""A small run of `research.bench.streams`."""

import json

import pytest

from research.bench import streams


@pytest.mark.slow
def test_a_small_run(tmp_path, clip_folder, capsys):
    options = ["--rows", "1200", "--pool", "30", "--batch-size", "8", "--buffer", "50", "--batches", "2"]
    result = streams.main([*options, "--repeats", "1", "--clip", clip_folder, "--output", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text()) == result
    assert [moment["share"] for moment in result["memory"]] == [0.1, 0.5, 1.0]
    assert all(moment["loader"] > 50 for moment in result["memory"])
    assert set(result["rates"]) == {"stream", "memory"} and min(result["rates"].values()) > 0
    assert len(capsys.readouterr().out.splitlines()) == len(result["rows"]) + 1
