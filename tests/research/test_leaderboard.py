"""The leaderboard: a table for each protocol id, from result files alone."""

import json

import pytest

from research.leaderboard import leaderboard


def record(protocol_id, results, **facts):
    metrics = [{"recall@1": value, "recall@5": value + 1} for _, value in results]
    return {
        "protocol_id": protocol_id,
        "num_queries": 10,
        "gallery_size": 20,
        "commit": "0123456789abcdef",
        "command": f"contextcir benchmark {protocol_id}",
        "results": [
            {"retriever": name, "metrics": found, "intervals": {key: [1.0, 2.0] for key in found}}
            for (name, _), found in zip(results, metrics, strict=True)
        ],
        "chance": {"recall@1": 5.0, "recall@5": 25.0},
        **facts,
    }


def test_rows_of_two_protocols_never_meet(tmp_path):
    (tmp_path / "leaderboard").mkdir()
    files = {
        "a.json": record("cirr/val", [("model", 30.0), ("CLIP, slerp", 10.0)], clip="tiny"),
        "b.json": record("cirr/val", [("better", 40.0), ("CLIP, slerp", 10.0)], clip="tiny", date="2026-01-02"),
        "leaderboard/c.json": record("cirr/val/without-3-images-1-queries-abcd", [("model", 90.0)]),
        "other.json": {"rows": []},
        "d.json": record("cirr/val", [("CLIP, slerp", 11.0)], clip="other"),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    whole, part = leaderboard(tmp_path).split("## `cirr/val/without")
    rows = [line for line in whole.splitlines() if line.startswith("| ")]
    assert rows[0] == "| method | encoder | recall@1 | recall@5 | date | commit |"
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        "| better",
        "| model",
        "| CLIP, slerp",
        "| CLIP, slerp",
        "| chance",
    ]
    assert rows[2] == "| better |  | 40.0 (1.0 to 2.0) | 41.0 (1.0 to 2.0) | 2026-01-02 | `0123456` |"
    assert "| CLIP, slerp | tiny | 10.0 (1.0 to 2.0)" in whole and "2026-01-02" in rows[5]  # the last run of the two
    assert "90.0" not in whole and "90.0" in part and "10 queries, gallery of 20" in part


def test_one_protocol_has_one_size(tmp_path):
    for name, size in (("a", 20), ("b", 21)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record("x", [("m", 1.0)], gallery_size=size)))
    with pytest.raises(ValueError, match="x: .*different sizes"):
        leaderboard(tmp_path)
