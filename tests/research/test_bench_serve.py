"""A short form of `research.bench.serve_load`."""

import json

import pytest

from contextcir.retrieval.base import Gallery
from contextcir.retrieval.dense import DenseRetriever
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from research.bench import serve_load
from tests.serving.world import COUNT, draw_pictures

pytest.importorskip("fastapi", reason="a server needs the extra 'serve'")


@pytest.mark.slow
def test_searches_and_refusals_are_counted(run, tmp_path):
    retriever = DenseRetriever.from_model(
        ContextCIRModel.from_pretrained(run), ContextCIRProcessor.from_pretrained(run)
    )
    Gallery.build(draw_pictures(tmp_path / "pictures"), retriever, tmp_path / "stored", quiet=True)
    options = ["--clients", "12", "--seconds", "4", "--interval", "0.2", "--queue", "2", "--batch", "1"]
    output = tmp_path / "out" / "load.json"
    result = serve_load.main([str(tmp_path / "stored"), *options, "--output", str(output)])
    assert json.loads(output.read_text()) == result and not list(output.parent.glob("*.log"))
    searches = result["searches"]
    assert searches["asked"] == searches["answered"] + searches["refused"] and result["images"] == COUNT
    assert searches["answered"] > 10 and searches["refused"] > 0  # twelve ask, and two fit
    assert result["share_429"] == searches["refused"] / searches["asked"]
    assert 0 < result["p50_ms"] <= result["p95_ms"] and result["errors"] == {}
    assert len(result["memory"]) > 5 and all(one["server_mb"] > 50 for one in result["memory"])
    assert [row["name"] for row in result["rows"] if row["name"].startswith("errors") and row["met"]]


def test_growth_of_memory():
    flat = [{"second": second, "server_mb": 100.0} for second in range(61)]
    assert serve_load.growth(flat, 60) == 1
    leak = [{"second": second, "server_mb": 100.0 + second} for second in range(61)]
    assert serve_load.growth(leak, 60) > 1.2
