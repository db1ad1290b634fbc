"""The scenes benchmark in other words: what changes and what stays."""

import re

import pytest

from contextcir.benchmarks import published, scenes
from contextcir.chat.server import Outcome
from contextcir.scenes.differences import edits_between
from datasets_scripts import build_scenes, reword_scenes


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    old, new = (tmp_path_factory.mktemp("world") / name for name in ("scenes", "reworded"))
    sizes = {"num_train": 1, "num_validation": 24, "num_test": 24, "gallery_size": 250, "image_size": 96}
    build_scenes.main(["--output", str(old), *(f"--{name}={value}" for name, value in sizes.items())])
    reword_scenes.main(["--output", str(new), "--scenes", str(old)])
    return old, new


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_only_the_words_are_others(folders, split):
    (before,) = scenes.load(str(folders[0]), split)
    (after,) = published.load(str(folders[1]), split)
    assert after.relevance == before.relevance and after.gallery.ids == before.gallery.ids
    assert [(query.id, query.reference_id, query.candidate_ids) for query in after.queries] == [
        (query.id, query.reference_id, query.candidate_ids) for query in before.queries
    ]
    texts = [[query.modification_text for query in part.queries] for part in (before, after)]
    assert all(len(text.split()) <= 12 for text in texts[1])
    assert sum(one != other for one, other in zip(*texts, strict=True)) > 20
    assert before.protocol_id != after.protocol_id  # so that nobody compares them unawares


def test_the_words_speak_of_what_differs(folders):
    (benchmark,) = published.load(str(folders[1]), "validation")
    shown = scenes.load_scenes(str(folders[0]), "validation")
    for query in benchmark.queries:
        edits = edits_between(shown[query.reference_id], shown[min(benchmark.relevance[query.id])])
        things = [thing for edit in edits for thing in (edit.old, edit.new) if thing]
        words = {word for thing in things for word in (thing.colour, thing.shape, "thing", "object", "one")}
        if all(edit.kind != "background" for edit in edits):
            assert words & set(re.findall(r"\w+", query.modification_text.lower())), query.modification_text


def test_a_query_without_words_is_named(folders, monkeypatch, tmp_path):
    monkeypatch.setattr(reword_scenes, "asking", lambda oracle: _says_nothing)
    with pytest.raises(ValueError, match=r"Query '.*' got no text: image_caption: failed"):
        reword_scenes.main(["--output", str(tmp_path), "--scenes", str(folders[0])])


async def _says_nothing(request):
    return Outcome("failed")
