"""Benchmarks in the published form: reading, protocol ids, writing, and errors."""

import io
import re
from dataclasses import replace

import pytest
from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetNotFoundError
from PIL import Image as PILImage

from contextcir.benchmarks import published
from contextcir.benchmarks.published import load_published
from contextcir.benchmarks.registry import load_benchmark
from contextcir.retrieval.base import Gallery, Query
from tests.benchmarks.layouts import refuses
from tests.benchmarks.test_base import IDS, tiny_benchmark, tiny_ranking

STRING = Value("string")


def png(value):
    buffer = io.BytesIO()
    PILImage.new("L", (2, 2), value).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write(root, config, rows, features, split="test", shards=1):
    (root / config).mkdir(parents=True, exist_ok=True)
    dataset = Dataset.from_list(rows, features=Features(features))
    for shard in range(shards):
        part = dataset.shard(shards, shard, contiguous=True)
        part.to_parquet(root / config / f"{split}-{shard:05d}-of-{shards:05d}.parquet")


def tiny_rows():
    """The rows of each configuration."""
    queries = [
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
    return {
        "gallery": [{"id": id_, "image": png(place)} for place, id_ in enumerate(IDS)],
        "queries": queries,
        "relevance": [
            {"query_id": query_id, "target_id": target}
            for query_id, targets in tiny_benchmark().relevance.items()
            for target in sorted(targets)
        ],
    }


def write_all(root, rows, *, shards=1, reverse_columns=False):
    for config, some in rows.items():
        features = {name: published.FEATURES[config][name] for name in some[0]}
        if reverse_columns:
            features = dict(reversed(features.items()))
        write(root, config, some, features, shards=shards)
    return str(root)


@pytest.fixture
def folder(tmp_path):
    write_all(tmp_path / "tiny", tiny_rows())
    return tmp_path / "tiny"


def test_load_published(folder):
    benchmark = load_published(str(folder), "test")
    assert benchmark.name == "tiny"
    assert re.fullmatch(r"tiny-[0-9a-f]{8}/test/reference-excluded", benchmark.protocol_id)
    assert benchmark.gallery.ids == IDS
    assert benchmark.gallery.image("c").getpixel((0, 0)) == (2, 2, 2)
    assert benchmark.relevance == tiny_benchmark().relevance
    assert benchmark.gallery.reference_image(benchmark.queries[0]).getpixel((0, 0)) == (100, 100, 100)
    assert [replace(query, reference_image=None) for query in benchmark.queries] == tiny_benchmark().queries
    assert list(benchmark.metrics) == ["recall", "recall_subset", "map"]
    short = replace(benchmark, metrics=tiny_benchmark().metrics)
    assert short.evaluate(tiny_ranking()) == tiny_benchmark().evaluate(tiny_ranking())


@pytest.mark.parametrize("protocol, excluded", [("reference-excluded", True), ("reference-kept", False)])
def test_one_benchmark_under_two_names(folder, protocol, excluded):
    """Training reads it by `load_published`, everything else by the name `custom`."""
    own = load_published(str(folder), "test", protocol=protocol)
    (custom,) = load_benchmark("custom", str(folder), "test", protocol=protocol)
    assert own.protocol_id == custom.protocol_id and own.protocol_id.endswith(f"/test/{protocol}")
    assert own.exclude_reference is custom.exclude_reference is excluded
    assert own.queries == custom.queries and own.relevance == custom.relevance


def changed(config, row, **changes):
    """Rows of which one is different."""
    rows = tiny_rows()
    rows[config][row] |= changes
    return rows


@pytest.mark.parametrize(
    "rows",
    [
        changed("queries", 1, modification_text="another text"),
        changed("queries", 0, candidate_ids=list("abd")),
        changed("queries", 0, tags=["short"]),
        changed("queries", 0, reference_id="e"),
        changed("queries", 0, reference_image=None),
        changed("gallery", 6, id="z"),
        changed("gallery", 6, image={"bytes": png(6)["bytes"] + b"0", "path": None}),
        changed("relevance", 2, target_id="g"),
        tiny_rows() | {"relevance": tiny_rows()["relevance"][:-1]},
        tiny_rows() | {"gallery": tiny_rows()["gallery"][::-1]},  # the order of ties
    ],
)
def test_other_data_have_another_protocol_id(folder, tmp_path, rows):
    other = load_published(write_all(tmp_path / "other" / "tiny", rows), "test").protocol_id
    assert re.fullmatch(r"tiny-[0-9a-f]{8}/test/reference-excluded", other)
    assert other != load_published(str(folder), "test").protocol_id


@pytest.mark.parametrize("shards, reverse_columns", [(1, True), (2, False)])
def test_the_same_data_in_other_files_have_the_same_protocol_id(folder, tmp_path, shards, reverse_columns):
    rows = tiny_rows() | {"relevance": tiny_rows()["relevance"][::-1]}
    other = write_all(tmp_path / "other" / "tiny", rows, shards=shards, reverse_columns=reverse_columns)
    assert load_published(other, "test").protocol_id == load_published(str(folder), "test").protocol_id


def test_optional_columns_may_be_missing(tmp_path):
    query = {"id": "q", "modification_text": "x", "reference_id": "a"}
    rows = tiny_rows() | {"queries": [query], "relevance": [{"query_id": "q", "target_id": "b"}]}
    benchmark = load_published(write_all(tmp_path, rows), "test")
    assert benchmark.queries == [Query("q", "x", reference_id="a")]
    assert list(benchmark.metrics) == ["recall"]  # no subset to rank, and one target


def test_without_relevance_it_is_not_scored(tmp_path):
    rows = tiny_rows()
    del rows["relevance"]
    benchmark = load_published(write_all(tmp_path, rows), "test")
    assert not benchmark.is_scored and benchmark.protocol_id


def test_missing_splits_columns_and_folders_are_named(folder, monkeypatch):
    refuses("gallery/val-.*parquet.* test", load_published, str(folder), "val")
    refuses(f"{folder / 'gallery'} .*gallery/test-.*parquet.* none", load_published, str(folder / "gallery"), "test")
    write(folder, "relevance", [{"query": "q1", "target_id": "b"}], {"query": STRING, "target_id": STRING})
    refuses(r"relevance: .*\['query_id'\].*\['query', 'target_id'\]", load_published, str(folder), "test")
    (file,) = (folder / "gallery").glob("*.parquet")
    whole = file.read_bytes()
    for damaged in (whole[:-9], whole[:99] + bytes(99) + whole[198:]):  # its schema, its rows
        file.write_bytes(damaged)
        refuses(r"tiny, gallery: test-\*.parquet", load_published, str(folder), "test")

    def not_found(*args, **kwargs):
        raise DatasetNotFoundError("no")

    monkeypatch.setattr(published, "load_dataset", not_found)
    refuses("'data/missing'", load_published, "data/missing", "test")


def test_images_are_published_as_they_are(tmp_path):
    """Files are copied byte for byte, in any form that a gallery or query holds them; pixels become PNG."""
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
