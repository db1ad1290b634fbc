"""LaSCo in its official layout: the two files' paths, the protocols, and what is refused."""

import json

import pytest

from contextcir.benchmarks import lasco
from contextcir.retrieval.base import Ranking
from tests.measured import measured
from tests.tiny_triplets import png

IDS = [42, 73, 74, 133, 136, 139, 143, 164, 192, 196, 208, 241]


def image(id_: int) -> list:
    return [id_, f"val2014/COCO_val2014_{id_:012d}.jpg"]


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """Four queries over twelve images, of which two are made of one question and one has no text."""
    rows = [
        {"qid": qid, "query-image": image(IDS[0]), "query-text": text, "target-image": image(IDS[target])}
        for qid, text, target in [(42000, "it rains", 1), (42001, "a red bus", 5), (42001, "", 6), (42002, "two", 11)]
    ]
    (tmp_path / "lasco_val.json").write_text(json.dumps(rows))
    corpus = [{"id": id_, "path": f"val/{image(id_)[1]}"} for id_ in IDS]  # one folder more than in the queries
    (tmp_path / "lasco_val_corpus.json").write_text(json.dumps(corpus))
    (tmp_path / "val2014").mkdir()
    for id_ in IDS:
        (tmp_path / image(id_)[1]).write_bytes(png(id_))
    monkeypatch.setattr(lasco, "OFFICIAL", {"val": {"queries": 4, "images": 12}})
    return tmp_path


def change(path, function) -> None:
    path.write_text(json.dumps(function(json.loads(path.read_text()))))


def test_the_official_layout(mini):
    (loaded,) = lasco.load(str(mini))
    assert loaded.protocol_id == "lasco/val/reference-kept"
    assert [query.id for query in loaded.queries] == ["00000-42000", "00001-42001", "00002-42001", "00003-42002"]
    assert loaded.queries[1].modification_text == "a red bus" and loaded.queries[1].reference_id == "42"
    assert loaded.relevance["00003-42002"] == {"241"}
    assert loaded.gallery.ids == [str(id_) for id_ in IDS]
    assert loaded.gallery.reference_image(loaded.queries[0]).size == (34, 30)
    # The reference stands first; the targets at places 2, 6, 7 and 12.
    result = loaded.evaluate(Ranking([query.id for query in loaded.queries], [loaded.gallery.ids] * 4))
    shares = {1: 0, 5: 25, 10: 75, 50: 100, 500: 100, 1000: 100}
    assert result == {f"recall@{k}": share for k, share in shares.items()}
    assert loaded.k == 1000


def test_training_triplets(mini):
    (mini / "lasco_train.json").write_text((mini / "lasco_val.json").read_text())
    rows = list(lasco.training_triplets(str(mini)))
    assert [row["id"] for row in rows] == ["000000-42000", "000001-42001", "000003-42002"]  # nothing from a blank text
    assert (rows[1]["modification_text"], rows[1]["reference_id"], rows[1]["target_id"]) == ("a red bus", "42", "139")
    assert rows[1]["target_image"] == mini / image(139)[1]
    (mini / image(139)[1]).unlink()
    with pytest.raises(ValueError, match="lasco train: 1 of 5 images are missing, such as .*139.jpg"):
        next(lasco.training_triplets(str(mini)))


def test_the_reference_can_be_removed(mini):
    (removed,) = lasco.load(str(mini), protocol="reference-removed")
    assert removed.protocol_id == "lasco/val/reference-removed"
    ids = [query.id for query in removed.queries]
    result = removed.evaluate(Ranking(ids, [removed.gallery.ids[1:]] * 4))
    assert (result["recall@1"], result["recall@5"], result["recall@10"]) == (25, 50, 75)
    with pytest.raises(ValueError, match="query '00000-42000' holds its reference '42', which the protocol excludes"):
        removed.evaluate(Ranking(ids, [removed.gallery.ids] * 4))


def test_unknown_choices_list_the_valid_ones(mini):
    with pytest.raises(ValueError, match="lasco has the splits val, got 'test'"):
        lasco.load(str(mini), "test")
    with pytest.raises(ValueError, match="reference-kept, reference-removed, got 'full'"):
        lasco.load(str(mini), protocol="full")


def test_what_is_missing_is_named(mini):
    (mini / image(IDS[3])[1]).unlink()
    with pytest.raises(ValueError, match="lasco val: 1 of 12 images are missing, such as .*COCO_val2014_000000000133"):
        lasco.load(str(mini))
    lasco.load(str(mini), check_images=False)
    change(mini / "lasco_val.json", lambda rows: rows[:3])
    with pytest.raises(ValueError, match="has 3 queries and 12 images, the official release 4 queries and 12 images"):
        lasco.load(str(mini))
    (mini / "lasco_val_corpus.json").unlink()
    with pytest.raises(ValueError, match="lasco_val_corpus.json is missing"):
        lasco.load(str(mini))


@pytest.mark.parametrize(
    ("file", "function", "message"),
    [
        (
            "lasco_val_corpus.json",
            lambda rows: [[row["id"], row["path"]] for row in rows],
            r"row 0: .*id, path.*\[42, ",
        ),
        ("lasco_val_corpus.json", lambda rows: {row["id"]: row["path"] for row in rows}, "row 0: .*got {'42': 'val/"),
        (
            "lasco_val.json",
            lambda rows: [*rows[:2], {"qid": 1}],
            "row 2: expected a list of objects with qid, .*got {'qid': 1}",
        ),
        (
            "lasco_val.json",
            lambda rows: [rows[0], {**rows[1], "target-image": 74}],
            "row 1: 'target-image' is 74, exp",
        ),
    ],
)
def test_another_layout_is_refused(mini, file, function, message):
    change(mini / file, function)
    with pytest.raises(ValueError, match=f"{file}, {message}"):
        lasco.load(str(mini))


def test_a_corpus_without_a_target_is_refused(mini):
    change(mini / "lasco_val_corpus.json", lambda rows: [*rows[:11], {"id": 257, "path": image(257)[1]}])
    with pytest.raises(ValueError, match="query '00003-42002' has the target '241', which is not in the gallery"):
        lasco.load(str(mini), check_images=False)


def test_from_the_command_line(mini, run):
    record = measured(run, "lasco", mini)
    assert record["protocol_id"] == "lasco/val/reference-kept"
    assert record["results"][0]["metrics"]["recall@1000"] == 100  # of twelve images
