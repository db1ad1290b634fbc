"""The scenes benchmark with generated texts."""

import re

import pytest

from contextcir.benchmarks import published
from contextcir.benchmarks.scenes import SPLITS, load, load_scenes
from contextcir.chat.exchange import Outcome
from contextcir.scenes.differences import edits_between
from research import reword_scenes


@pytest.fixture(scope="module")
def reworded(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reworded") / "data"
    reword_scenes.main(["--output", str(folder), "--scenes", str(scenes)])
    return folder


@pytest.mark.parametrize("split", SPLITS)
def test_only_the_texts_differ(scenes, reworded, split):
    (before,) = load(str(scenes), split)
    (after,) = published.load(str(reworded), split)
    assert after.relevance == before.relevance and after.gallery.ids == before.gallery.ids
    assert [(query.id, query.reference_id, query.candidate_ids) for query in after.queries] == [
        (query.id, query.reference_id, query.candidate_ids) for query in before.queries
    ]
    texts = [[query.modification_text for query in part.queries] for part in (before, after)]
    assert all(len(text.split()) <= 12 for text in texts[1])
    assert sum(one != other for one, other in zip(*texts, strict=True)) > 20
    assert before.protocol_id != after.protocol_id  # the scores cannot be compared


def test_the_texts_describe_the_differences(scenes, reworded):
    (benchmark,) = published.load(str(reworded), "validation")
    shown = load_scenes(str(scenes), "validation")
    for query in benchmark.queries:
        edits = edits_between(shown[query.reference_id], shown[min(benchmark.relevance[query.id])])
        things = [thing for edit in edits for thing in (edit.old, edit.new) if thing]
        words = {word for thing in things for word in (thing.colour, thing.shape, "thing", "object", "one")}
        if all(edit.kind != "background" for edit in edits):
            assert words & set(re.findall(r"\w+", query.modification_text.lower())), query.modification_text


def test_a_query_without_text_is_named(scenes, monkeypatch, tmp_path):
    async def fail(request):
        return Outcome("failed")

    monkeypatch.setattr(reword_scenes, "ask_function", lambda oracle: fail)
    with pytest.raises(ValueError, match="'test-query-00000'.*image_caption: failed"):
        reword_scenes.main(["--output", str(tmp_path), "--scenes", str(scenes)])
