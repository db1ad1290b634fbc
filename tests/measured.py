"""A benchmark measured through the door, as a user does it, and what holds of every result."""

import math

from contextcir.cli import benchmark as door


def measured(run, name: str, root, *more: str) -> dict:
    """The record of `benchmark.py` with a tiny model and the baselines that apply."""
    record = door.main(["--retriever", str(run), "--baselines", "--benchmark", name, "--data-root", str(root), *more])
    first, *baselines = record["results"]
    assert first["retriever"] == str(run) and baselines
    for result in record["results"]:
        assert result["metrics"].keys() == result["intervals"].keys() == record["chance"].keys()
        for key, value in result["metrics"].items():
            low, high = result["intervals"][key]
            assert math.isfinite(value) and 0 <= low <= value <= high, key
    return record
