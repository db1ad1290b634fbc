"""The files of ImageScope: the trace, and the caches of captions and embeddings."""

import json

import pytest

from contextcir.retrieval.imagescope.cache import CaptionCache
from contextcir.retrieval.imagescope.trace import HEADER, Trace, read_trace


def places(path) -> list[tuple[str, int]]:
    return [(record["key"], record["place"]) for record in read_trace(path)]


def test_the_last_line_of_each_query_counts(tmp_path):
    path = tmp_path / "trace.jsonl"
    trace = Trace(path)
    for place in range(3):
        trace.write({"key": "a", "place": place})
        trace.write({"key": "b", "place": -place})
    assert places(path) == [("a", 2), ("b", -2)] and len(path.read_bytes().splitlines()) == 7
    trace.compact()
    assert places(path) == [("a", 2), ("b", -2)] and len(path.read_bytes().splitlines()) == 3
    trace.write({"key": "a", "place": 7})
    Trace(path)
    assert places(path) == [("a", 7), ("b", -2)] and len(path.read_bytes().splitlines()) == 3


def test_an_unfinished_last_line_is_removed(tmp_path):
    path = tmp_path / "trace.jsonl"
    Trace(path).write({"key": "a", "place": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "')
    assert places(path) == [("a", 1)]
    trace = Trace(path)
    assert path.read_bytes() == whole
    trace.write({"key": "b", "place": 2})
    assert places(path) == [("a", 1), ("b", 2)]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"trace": "imagescope", "version": 7}\n', '"version": 7.*"version": 2'),
        (b'{"retriever": "x"}\n', '"retriever": "x"'),
        (b"[]\n", r"\[\]"),
        (b"query,text\n", "query,text"),
        (HEADER + b"nonsense\n", f"byte {len(HEADER)}"),
        (HEADER + b'{"key": "a"}\n{"query": "b"}\n', f"byte {len(HEADER) + 13}"),
    ],
)
def test_another_file_version_or_a_damaged_line_is_refused_and_not_changed(tmp_path, content, named):
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content)
    for read in (Trace, lambda path: list(read_trace(path))):
        with pytest.raises(ValueError, match=f"trace.jsonl.*{named}"):
            read(path)
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_an_unfinished_line_of_captions_is_skipped(tmp_path):
    cache = CaptionCache(tmp_path, "model", "prompt")
    cache.add("a", "a dog", 0)
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes() + b'\n{"image": "b", "capt')
    cache.add("c", "größer\n", 0)
    cache.add("d", "by another process", 1)
    captions = {"a": "a dog", "c": "größer\n", "d": "by another process"}
    assert CaptionCache(tmp_path, "model", "prompt").read() == captions
    assert CaptionCache(tmp_path, "model", "other").read() == CaptionCache(tmp_path, "other", "prompt").read() == {}
    assert json.loads(file.read_text().splitlines()[1])["image"] == "a"
