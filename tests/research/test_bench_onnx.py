"""The quick form of `research.bench.onnx_speed`: every variant is measured."""

import json

import pytest

from research.bench import onnx_speed
from tests import tiny_scenes

for library in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(library, reason="needs the extra `onnx`")


@pytest.mark.slow
def test_quick(run, tmp_path):
    data = tiny_scenes.build(tmp_path / "scenes")
    argv = ["--quick", "--model", str(run), "--data_root", str(data), "--output", str(tmp_path / "bench.json")]
    result = onnx_speed.main(argv)
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    variants = {"torch fp32", "onnx fp32", "onnx int8"}
    assert [row["shapes"] for row in result["rows"]] == ["ViT-B/32", "the demo"]
    for row in result["rows"]:
        assert row["megabytes"]["int8"] < row["megabytes"]["fp32"]
        for rates in row["rates"].values():
            assert set(rates) == variants and all(rate > 0 for rate in rates.values())
    assert set(result["recall"]["metrics"]) == variants
