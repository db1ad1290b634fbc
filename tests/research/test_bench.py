"""The quick form of `research.bench.models`: all parts run, and compared variants do the same work."""

import json
import os

import pytest

from research.bench import models as bench


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    result = bench.main(["--quick", "--output", str(tmp_path / "bench.json")])
    assert json.loads((tmp_path / "bench.json").read_text())["rows"][0]["name"] == result["rows"][0]["name"]
    naive = [row for row in result["rows"] if row["name"].startswith("naive")]
    assert len(naive) == 2
    for row in naive:
        assert row["equal"] and row["loss_difference"] <= 1e-5 and row["gradient_difference"] <= 1e-4
    (search,) = (row for row in result["rows"] if row["name"].startswith("search, top 50"))
    assert search["equal"]
    names = [row["name"] for row in result["rows"]]
    for name in ("rank and score CIRR", "rank and score CIRCO", "rank and score FashionIQ"):
        assert any(row.startswith(name) for row in names)
    loaded = [name for name in names if name.startswith("load all annotation files")]
    assert len(loaded) == ("CIR_DATA_ROOT" in os.environ)
    (trained,) = (row for row in result["rows"] if row["name"].startswith("InstructCIR / CLIP training step"))
    assert trained["operations"] > 1 and trained["ratio"] == trained["time"] / trained["operations"]
    assert len(names) == 15 + len(loaded)
    assert all(row["ratio"] > 0 or "memory" in row["name"] or "MB" in row["name"] for row in result["rows"])
    assert len(capsys.readouterr().out.splitlines()) == 1 + 15 + 1
