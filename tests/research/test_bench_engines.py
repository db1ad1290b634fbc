"""The quick form of `research.bench.engines`."""

import json

import pytest

from research.bench import engines


@pytest.mark.slow
def test_engines_are_measured(tmp_path):
    pytest.importorskip("lancedb")
    result = engines.main(["--quick", "--output", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text()) == result
    rows = result["rows"]
    assert [row["engine"] for row in rows] == ["exact", "int8", "int8", "binary", "binary", "binary", *["lancedb"] * 6]
    assert rows[0]["recall@10"] == rows[0]["recall@50"] == 1 and rows[0]["settings"] == {}
    assert all(0.8 < row["recall@10"] <= 1 and row["ms_per_query"] > 0 and row["rows"] == 1000 for row in rows)
    assert rows[3]["megabytes"] < rows[1]["megabytes"] < rows[0]["megabytes"] < rows[-1]["megabytes"]
    assert rows[-1]["settings"] == {"bits": 4, "partitions": 31, "nprobes": 64}
