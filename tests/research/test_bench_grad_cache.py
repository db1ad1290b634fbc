"""The quick form of `research.bench.grad_cache`."""

import json

import pytest

from research.bench import grad_cache


@pytest.mark.slow
def test_memory_and_time_are_measured_on_equal_gradients(tmp_path):
    options = ["--quick", "--batch", "8", "--chunk", "2", "--timed-batch", "4", "--repeats", "1"]
    result = grad_cache.main([*options, "--output", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text()) == result
    memory, time, difference = result["rows"]
    assert memory["value"] == pytest.approx(memory["megabytes"][0] / memory["megabytes"][1])
    assert time["value"] == pytest.approx(time["seconds"][0] / time["seconds"][1])
    assert difference["met"] and difference["value"] > 0
