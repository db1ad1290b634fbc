"""The quick form of `research.bench.galleries`: every row is measured, and the goals are the ones of the issue."""

import json

import pytest

from research.bench import galleries


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    result = galleries.main(["--quick", "--output", str(tmp_path / "bench.json")])
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [row["name"] for row in rows] == [row["name"] for row in result["rows"]] and len(rows) == 9
    assert all(row["ratio"] > 0 for row in rows)
    goals = {row["name"].split(",")[0]: row["goal"] for row in rows if row["goal"]}
    assert goals == {
        "main thread": "<= 1.5",
        "building a gallery of 640 x 480 JPEG": "<= 1.03",
        "building": "<= 1.1",
        "one query in 20": "<= 1.15",
    }
