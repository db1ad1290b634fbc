"""A folder of one's own: what is read, what it is called, and what is wrong on which line."""

import json

import pytest

from contextcir.benchmarks import folder
from contextcir.retrieval.base import Ranking
from tests.measured import measured
from tests.tiny_triplets import png

NAMES = ["a.jpg", "b.PNG", "snow/a.jpg", "snow/deep/c.webp"]
ROWS = [
    {"reference": "a.jpg", "text": "in the snow", "targets": ["snow/a.jpg", "snow/deep/c.webp"], "tags": ["snow"]},
    {"text": "a dog", "targets": ["b.PNG"], "id": "dog", "candidates": ["a.jpg", "b.PNG"]},
]


@pytest.fixture
def mini(tmp_path):
    for number, name in enumerate(reversed(NAMES)):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    for name in ("images/notes.txt", "images/.a.jpg"):  # no image, and what a file manager leaves behind
        (tmp_path / name).write_text("x")
    write(tmp_path, *ROWS)
    return tmp_path


def write(root, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (root / "queries.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_what_is_read(mini):
    (loaded,) = folder.load(str(mini))
    assert loaded.gallery.ids == NAMES
    assert loaded.gallery.image("snow/deep/c.webp").size == (34, 30)
    first, second = loaded.queries
    assert (first.id, first.reference_id, first.tags) == ("1", "a.jpg", ("snow",))
    assert (second.id, second.has_reference, second.candidate_ids) == ("dog", False, ("a.jpg", "b.PNG"))
    assert loaded.relevance == {"1": {"snow/a.jpg", "snow/deep/c.webp"}, "dog": {"b.PNG"}}
    ranking = Ranking(
        ["1", "dog"],
        [["b.PNG", "snow/a.jpg", "snow/deep/c.webp"], ["a.jpg", "b.PNG", "snow/a.jpg", "snow/deep/c.webp"]],
        candidate_ids=[[], ["a.jpg", "b.PNG"]],
    )
    found = loaded.evaluate(ranking)
    assert (found["recall@1"], found["recall@5"]) == (0, 100)
    assert (found["recall_subset@1"], found["recall_subset@2"]) == (0, 100)  # of the one that has candidates
    assert found["map@5"] == pytest.approx(100 * ((1 / 2 + 2 / 3) / 2 + 1 / 2) / 2)


def test_metrics_are_those_that_mean_something(mini):
    write(mini, {"text": "a dog", "targets": ["b.PNG"]})
    (loaded,) = folder.load(str(mini))
    assert list(loaded.metrics) == ["recall"]


def test_the_reference_leaves_the_ranking_unless_asked(mini):
    (loaded,) = folder.load(str(mini))
    assert loaded.exclude_reference and loaded.protocol_id.endswith("/reference-excluded")
    write(mini, {"reference": "a.jpg", "text": "the same", "targets": ["a.jpg"]})
    with pytest.raises(ValueError, match="line 1: the reference 'a.jpg' is a target, which the protocol excludes"):
        folder.load(str(mini))
    (loaded,) = folder.load(str(mini), protocol="reference-kept")
    assert not loaded.exclude_reference and loaded.protocol_id.endswith("/reference-kept")
    assert loaded.evaluate(Ranking(["1"], [NAMES]))["recall@1"] == 100
    write(mini, {"reference": "a.jpg", "text": "the same", "targets": ["a.jpg"], "candidates": ["a.jpg", "b.PNG"]})
    with pytest.raises(
        ValueError, match="line 1: no target is among the candidates"
    ):  # which never hold the reference
        folder.load(str(mini), protocol="reference-kept")


def test_other_data_have_another_protocol_id(mini):
    def protocol_id():
        return folder.load(str(mini))[0].protocol_id

    before = protocol_id()
    assert before.startswith(f"folder/{mini.name}-") and protocol_id() == before
    write(mini, ROWS[0] | {"text": "in the rain"}, ROWS[1])
    changed = protocol_id()
    write(mini, *ROWS)
    (mini / "images" / "z.jpg").write_bytes(png(9))
    assert len({before, changed, protocol_id()}) == 3


def test_without_targets_rankings_are_checked_only(mini):
    write(mini, {"text": "a dog"}, {"text": "a cat", "targets": []})
    (loaded,) = folder.load(str(mini))
    assert not loaded.is_scored
    loaded.check(Ranking(["1", "2"], [NAMES, NAMES]))
    with pytest.raises(ValueError, match="the targets are not public"):
        loaded.evaluate(Ranking(["1", "2"], [NAMES, NAMES]))


def test_lines_are_counted_as_an_editor_does(mini):
    write(mini, "", ROWS[0] | {"text": "one\u2028line, schön"}, "  ", {"text": "a dog", "targets": ["b.PNG"]})
    (loaded,) = folder.load(str(mini))
    assert [query.id for query in loaded.queries] == ["2", "4"]
    assert loaded.queries[0].modification_text == "one\u2028line, schön"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"text": "a dog"', r"is not JSON: .*column \d+"),
        ("[1]", r"got '\[1\]', expected an object"),
        ({"text": "a dog", "target": ["b.PNG"]}, "there is no key 'target'. Keys are text, id, reference, targets"),
        ({"targets": ["b.PNG"]}, "'text' is None, expected a text"),
        ({"text": " ", "targets": ["b.PNG"]}, "'text' is ' ', expected a text"),
        ({"text": "a dog", "id": 7, "targets": ["b.PNG"]}, "'id' is 7, expected a text"),
        ({"text": "a dog", "reference": ["a.jpg"]}, r"'reference' is \['a.jpg'\], expected a text"),
        ({"text": "a dog", "targets": "b.PNG"}, "'targets' is 'b.PNG', expected a list of texts"),
        ({"text": "a dog", "tags": [1]}, r"'tags' is \[1\], expected a list of texts"),
        ({"text": "a dog", "targets": ["b.PNG", "b.PNG"]}, "'targets' holds 'b.PNG' more than once"),
        ({"text": "a dog", "targets": ["b.png"]}, "there is no image 'b.png' in images"),
        ({"text": "a dog", "reference": "images/a.jpg", "targets": ["b.PNG"]}, "there is no image 'images/a.jpg'"),
        ({"text": "a dog", "candidates": ["c.jpg"], "targets": ["b.PNG"]}, "there is no image 'c.jpg'"),
        ({"text": "a dog", "candidates": ["a.jpg"], "targets": ["b.PNG"]}, "no target is among the candidates"),
        ({"text": "a dog", "id": "1", "targets": ["b.PNG"]}, "the id '1' is that of line 1 already"),
        ({"text": "a dog"}, "has 0 targets, line 1 has some. Give targets on all lines, or on none"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(mini, row, message):
    write(mini, ROWS[0], "", row)
    with pytest.raises(ValueError, match=f"queries.jsonl, line 3: {message}"):
        folder.load(str(mini))


def test_what_is_missing_is_named(mini):
    with pytest.raises(ValueError, match="folder has the splits queries, got 'test'"):
        folder.load(str(mini), "test")
    with pytest.raises(ValueError, match="folder has the protocols reference-excluded, reference-kept, got 'none'"):
        folder.load(str(mini), protocol="none")
    write(mini, {"text": "a dog"}, {"text": "a cat", "targets": ["b.PNG"]})
    with pytest.raises(ValueError, match="line 2: has 1 targets, line 1 has none"):
        folder.load(str(mini))
    write(mini, "")
    with pytest.raises(ValueError, match="queries.jsonl holds no queries"):
        folder.load(str(mini))
    (mini / "queries.jsonl").write_bytes(b'{"text": "sch\xf6n"}')
    with pytest.raises(ValueError, match="queries.jsonl is not text in UTF-8"):
        folder.load(str(mini))
    (mini / "queries.jsonl").unlink()
    with pytest.raises(ValueError, match="queries.jsonl is missing"):
        folder.load(str(mini))
    for name in NAMES:
        (mini / "images" / name).unlink()
    with pytest.raises(ValueError, match=r"images holds no images \(.apng, .*\). Check the path"):
        folder.load(str(mini))


def test_from_the_command_line(mini, run):
    record = measured(run, "folder", mini)
    assert record["protocol_id"].startswith("folder/")
