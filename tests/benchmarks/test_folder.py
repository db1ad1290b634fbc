"""A folder of your own: what is read, its protocol id, and errors with the number of the line."""

import json
import unicodedata

import pytest

from contextcir.benchmarks import folder
from contextcir.retrieval.base import Ranking
from tests.benchmarks.layouts import refuses
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
    for name in ("images/notes.txt", "images/.a.jpg"):  # not an image, and a hidden file
        (tmp_path / name).write_text("x")
    write(tmp_path, *ROWS)
    return tmp_path


def write(root, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (root / "queries.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("on_disk, asked", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.fault("F23", "a query finds images whose names are on disk in another Unicode form")
def test_names_in_another_unicode_form(mini, on_disk, asked):
    name, given = (unicodedata.normalize(form, "caf\u00e9.png") for form in (on_disk, asked))
    (mini / "images" / name).write_bytes(png(7))
    write(mini, {"reference": given, "text": "x", "targets": ["a.jpg"], "candidates": ["a.jpg", given]})
    (loaded,) = folder.load(str(mini))
    (query,) = loaded.queries
    assert query.reference_id == name and query.candidate_ids == ("a.jpg", name)
    assert loaded.gallery.reference_image(query).size == (34, 30)
    (mini / "images" / given).write_bytes(png(8))
    if len(list((mini / "images").glob("caf*"))) < 2:
        pytest.skip("this file system takes both for one name")
    write(mini, {"reference": given, "text": "x", "targets": [name]})
    (loaded,) = folder.load(str(mini))  # both are there: each is what it says
    assert loaded.queries[0].reference_id == given and loaded.relevance == {"1": {name}}


def test_a_folder(mini):
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
    assert (found["recall_subset@1"], found["recall_subset@2"]) == (0, 100)  # of the query that has candidates
    assert found["map@5"] == pytest.approx(100 * ((1 / 2 + 2 / 3) / 2 + 1 / 2) / 2)


def test_metrics_depend_on_the_queries(mini):
    write(mini, {"text": "a dog", "targets": ["b.PNG"]})
    (loaded,) = folder.load(str(mini))
    assert list(loaded.metrics) == ["recall"]


def test_the_reference_is_excluded_by_default(mini):
    (loaded,) = folder.load(str(mini))
    assert loaded.exclude_reference and loaded.protocol_id.endswith("/reference-excluded")
    row = {"reference": "a.jpg", "text": "the same", "targets": ["a.jpg"]}
    write(mini, row)
    refuses("line 1: .*reference 'a.jpg'", folder.load, str(mini))
    (loaded,) = folder.load(str(mini), protocol="reference-kept")
    assert not loaded.exclude_reference and loaded.protocol_id.endswith("/reference-kept")
    assert loaded.evaluate(Ranking(["1"], [NAMES]))["recall@1"] == 100
    write(mini, row | {"candidates": ["a.jpg", "b.PNG"]})
    with pytest.raises(ValueError, match=r"line 1: .*\['a.jpg'\].*candidates"):  # without the reference
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
    refuses(loaded.protocol_id, loaded.evaluate, Ranking(["1", "2"], [NAMES, NAMES]))


def test_lines_are_numbered_as_in_an_editor(mini):
    write(mini, "", ROWS[0] | {"text": "one\u2028line, schön"}, "  ", {"text": "a dog", "targets": ["b.PNG"]})
    (loaded,) = folder.load(str(mini))
    assert [query.id for query in loaded.queries] == ["2", "4"]
    assert loaded.queries[0].modification_text == "one\u2028line, schön"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"text": "a dog"', r"JSON: .*column \d+"),
        ("[1]", r"'\[1\]'"),
        ({"text": "a dog", "target": ["b.PNG"]}, "'target'.* text, id, reference, targets, candidates, tags"),
        ({"targets": ["b.PNG"]}, "'text' .*None"),
        ({"text": " ", "targets": ["b.PNG"]}, "'text' .*' '"),
        ({"text": "a dog", "id": 7, "targets": ["b.PNG"]}, "'id' .*7"),
        ({"text": "a dog", "reference": ["a.jpg"]}, r"'reference' .*\['a.jpg'\]"),
        ({"text": "a dog", "targets": "b.PNG"}, "'targets' .*'b.PNG'.*list"),
        ({"text": "a dog", "tags": [1]}, r"'tags' .*\[1\].*list"),
        ({"text": "a dog", "targets": ["b.PNG", "b.PNG"]}, "'targets' .*'b.PNG' "),
        ({"text": "a dog", "targets": ["b.png"]}, "no image 'b.png'"),
        ({"text": "a dog", "reference": "images/a.jpg", "targets": ["b.PNG"]}, "no image 'images/a.jpg'"),
        ({"text": "a dog", "candidates": ["c.jpg"], "targets": ["b.PNG"]}, "no image 'c.jpg'"),
        ({"text": "a dog", "candidates": ["a.jpg"], "targets": ["b.PNG"]}, r"\['b.PNG'\] .*candidates"),
        ({"text": "a dog", "id": "1", "targets": ["b.PNG"]}, "id '1' .*line 1"),
        ({"text": "a dog"}, "0 targets, line 1 has 2"),
    ],
)
def test_an_error_names_the_line(mini, row, message):
    write(mini, ROWS[0], "", row)
    refuses(f"queries.jsonl, line 3: .*{message}", folder.load, str(mini))


def test_missing_and_damaged_files_are_named(mini):
    file = mini / "queries.jsonl"
    write(mini, {"text": "a dog"}, {"text": "a cat", "targets": ["b.PNG"]})
    refuses("line 2: .*1 targets, line 1 has 0", folder.load, str(mini))
    for content, message in ((b"\n", ""), (b'{"text": "sch\xf6n"}', ".*UTF-8")):
        file.write_bytes(content)
        refuses(f"{file}{message}", folder.load, str(mini))
    file.unlink()
    refuses(str(file), folder.load, str(mini))
    for name in NAMES:
        (mini / "images" / name).unlink()
    refuses(f"{mini / 'images'} ", folder.load, str(mini))


def test_from_the_command_line(mini, run):
    record = measured(run, "folder", mini)
    assert record["protocol_id"].startswith("folder/")
