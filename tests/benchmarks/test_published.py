"""Benchmarks in the published form: what is read, and what is named when it is missing."""

import io
import re
from dataclasses import replace

import pytest
from datasets import Dataset, Features, Image, List, Value
from datasets.exceptions import DatasetNotFoundError
from PIL import Image as PILImage

from contextcir.benchmarks import published
from contextcir.benchmarks.published import load_published
from contextcir.retrieval.base import Gallery, Query
from tests.benchmarks.test_base import IDS, tiny_benchmark, tiny_ranking


def png(value):
    buffer = io.BytesIO()
    PILImage.new("L", (2, 2), value).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write(root, config, rows, features, split="test"):
    (root / config).mkdir(parents=True, exist_ok=True)
    dataset = Dataset.from_list(rows, features=Features(features))
    dataset.to_parquet(root / config / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def folder(tmp_path):
    string = Value("string")
    root = tmp_path / "tiny"
    write(
        root, "gallery", [{"id": id_, "image": png(i)} for i, id_ in enumerate(IDS)], {"id": string, "image": Image()}
    )
    rows = [
        {
            "id": query.id,
            "reference_image": png(100),
            "reference_id": query.reference_id,
            "modification_text": query.modification_text,
            "candidate_ids": list(query.candidate_ids),
            "tags": list(query.tags),
        }
        for query in tiny_benchmark().queries
    ]
    features = dict.fromkeys(("id", "reference_id", "modification_text"), string)
    features |= {"reference_image": Image(), "candidate_ids": List(string), "tags": List(string)}
    write(root, "queries", rows, features)
    pairs = [{"query_id": q, "target_id": t} for q, ts in tiny_benchmark().relevance.items() for t in sorted(ts)]
    write(root, "relevance", pairs, {"query_id": string, "target_id": string})
    return root


def test_load_published(folder):
    benchmark = load_published(str(folder), "test")
    assert benchmark.name == "tiny"
    assert re.fullmatch(r"tiny-[0-9a-f]{8}/test/reference-excluded", benchmark.protocol_id)
    assert benchmark.gallery.ids == IDS
    assert benchmark.gallery.image("c").getpixel((0, 0)) == (2, 2, 2)
    assert benchmark.relevance == tiny_benchmark().relevance
    assert benchmark.gallery.reference_image(benchmark.queries[0]).getpixel((0, 0)) == (100, 100, 100)
    stored = [replace(query, reference_image=None) for query in benchmark.queries]
    assert stored == tiny_benchmark().queries
    assert list(benchmark.metrics) == ["recall", "recall_subset", "map"]
    short = replace(benchmark, metrics=tiny_benchmark().metrics)
    assert short.evaluate(tiny_ranking()) == tiny_benchmark().evaluate(tiny_ranking())


def test_optional_columns_may_be_missing(folder):
    rows = [{"id": "q", "modification_text": "x", "reference_id": "a"}]
    write(folder, "queries", rows, dict.fromkeys(rows[0], Value("string")), "tiny")
    write(
        folder,
        "relevance",
        [{"query_id": "q", "target_id": "b"}],
        dict.fromkeys(("query_id", "target_id"), Value("string")),
        "tiny",
    )
    write(
        folder,
        "gallery",
        [{"id": id_, "image": png(7)} for id_ in IDS],
        {"id": Value("string"), "image": Image()},
        "tiny",
    )
    (benchmark,) = published.load(str(folder), "tiny", protocol="reference-kept")
    assert benchmark.queries == [Query("q", "x", reference_id="a")]
    assert benchmark.protocol_id.endswith("/tiny/reference-kept") and not benchmark.exclude_reference
    assert list(benchmark.metrics) == ["recall"]  # nothing to rank a subset of, and one target
    with pytest.raises(ValueError, match="reference-excluded, reference-kept, got 'full'"):
        published.load(str(folder), "tiny", protocol="full")


def test_missing_splits_columns_and_folders_are_named(folder, monkeypatch):
    with pytest.raises(ValueError, match="gallery/val-.*parquet. Splits that it has: test"):
        load_published(str(folder), "val")
    with pytest.raises(ValueError, match="Splits that it has: none. Build it first"):
        load_published(str(folder / "gallery"), "test")
    write(
        folder,
        "relevance",
        [{"query": "q1", "target_id": "b"}],
        dict.fromkeys(("query", "target_id"), Value("string")),
    )
    with pytest.raises(
        ValueError, match=r"relevance: the columns \['query_id'\] are missing; there are \['query', 'target_id'\]"
    ):
        load_published(str(folder), "test")

    def not_found(*args, **kwargs):
        raise DatasetNotFoundError("no")

    monkeypatch.setattr(published, "load_dataset", not_found)
    with pytest.raises(ValueError, match="'data/missing' is neither a folder here nor a dataset"):
        load_published("data/missing", "test")


def test_images_are_published_as_they_are(tmp_path):
    """Files byte for byte, in whatever form a gallery or a query holds them; computed ones as PNG."""
    file = io.BytesIO()
    PILImage.new("RGB", (3, 2), "red").save(file, "JPEG")
    (tmp_path / "a.jpg").write_bytes(file.getvalue())
    stored = {"bytes": file.getvalue(), "path": None}
    images = [str(tmp_path / "a.jpg"), stored, file.getvalue(), PILImage.new("RGB", (3, 2), "blue")]
    benchmark = tiny_benchmark()
    gallery = Gallery(IDS, (images * len(IDS))[: len(IDS)])
    queries = [
        replace(query, reference_id=f"elsewhere-{query.id}", reference_image=stored) for query in benchmark.queries
    ]
    published.publish([replace(benchmark, gallery=gallery, queries=queries)], tmp_path / "out", "test")
    (read,) = published.load(str(tmp_path / "out"), "test")
    got = [image["bytes"] for image in read.gallery.images][:4]
    assert got[:3] == [file.getvalue()] * 3 and got[3].startswith(b"\x89PNG")
    assert read.queries[0].reference_image["bytes"] == file.getvalue()
