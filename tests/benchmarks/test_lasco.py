"""LaSCo in its official layout: the paths in the two files, the protocols, and the data that are refused."""

import pytest

from contextcir.benchmarks import lasco
from tests.benchmarks.layouts import change, in_gallery_order, refuses, write
from tests.measured import measured
from tests.tiny_triplets import png

IDS = [42, 73, 74, 133, 136, 139, 143, 164, 192, 196, 208, 241]


def image(id_: int) -> list:
    return [id_, f"val2014/COCO_val2014_{id_:012d}.jpg"]


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """Four queries over twelve images. Two queries are from one question, and one has no text."""
    rows = [
        {"qid": qid, "query-image": image(IDS[0]), "query-text": text, "target-image": image(IDS[target])}
        for qid, text, target in [(42000, "it rains", 1), (42001, "a red bus", 5), (42001, "", 6), (42002, "two", 11)]
    ]
    write(tmp_path / "lasco_val.json", rows)
    corpus = [{"id": id_, "path": f"val/{image(id_)[1]}"} for id_ in IDS]  # one folder more than in the queries
    write(tmp_path / "lasco_val_corpus.json", corpus)
    (tmp_path / "val2014").mkdir()
    for id_ in IDS:
        (tmp_path / image(id_)[1]).write_bytes(png(id_))
    monkeypatch.setattr(lasco, "OFFICIAL", {"val": {"queries": 4, "images": 12}})
    return tmp_path


def test_the_official_layout(mini):
    (loaded,) = lasco.load(str(mini))
    assert loaded.protocol_id == "lasco/val/reference-kept"
    assert [query.id for query in loaded.queries] == ["00000-42000", "00001-42001", "00002-42001", "00003-42002"]
    assert loaded.queries[1].modification_text == "a red bus" and loaded.queries[1].reference_id == "42"
    assert loaded.relevance["00003-42002"] == {"241"}
    assert loaded.gallery.ids == [str(id_) for id_ in IDS]
    assert loaded.gallery.reference_image(loaded.queries[0]).size == (34, 30)
    # The reference is first, the targets are at places 2, 6, 7 and 12.
    result = loaded.evaluate(in_gallery_order(loaded))
    shares = {1: 0, 5: 25, 10: 75, 50: 100, 500: 100, 1000: 100}
    assert result == {f"recall@{k}": share for k, share in shares.items()}
    assert loaded.k == 1000


def test_training_triplets(mini):
    (mini / "lasco_train.json").write_text((mini / "lasco_val.json").read_text())
    rows = list(lasco.training_triplets(str(mini)))
    assert [row["id"] for row in rows] == ["000000-42000", "000001-42001", "000003-42002"]  # no row with a blank text
    assert (rows[1]["modification_text"], rows[1]["reference_id"], rows[1]["target_id"]) == ("a red bus", "42", "139")
    assert rows[1]["target_image"] == mini / image(139)[1]
    (mini / image(139)[1]).unlink()
    refuses("lasco train: 1 of 5 .*139.jpg", next, lasco.training_triplets(str(mini)))


def test_the_reference_can_be_removed(mini):
    (removed,) = lasco.load(str(mini), protocol="reference-removed")
    assert removed.protocol_id == "lasco/val/reference-removed"
    result = removed.evaluate(in_gallery_order(removed))
    assert (result["recall@1"], result["recall@5"], result["recall@10"]) == (25, 50, 75)
    refuses("'00000-42000' .*reference '42'", removed.evaluate, in_gallery_order(removed, exclude=False))


def test_missing_data_are_named(mini):
    (mini / image(IDS[3])[1]).unlink()
    refuses("lasco val: 1 of 12 .*COCO_val2014_000000000133", lasco.load, str(mini))
    lasco.load(str(mini), check_images=False)
    change(mini / "lasco_val.json", lambda rows: rows[:3])
    refuses("3 queries and 12 images, .* 4 queries and 12 images", lasco.load, str(mini))
    (mini / "lasco_val_corpus.json").unlink()
    refuses("lasco_val_corpus.json", lasco.load, str(mini))


@pytest.mark.parametrize(
    ("file", "function", "message"),
    [
        (
            "corpus",
            lambda rows: [[row["id"], row["path"]] for row in rows],
            r"_corpus.json, row 0: .*\[42, .*object",
        ),
        ("corpus", lambda rows: {row["id"]: row["path"] for row in rows}, '_corpus.json: .*{"42": "val/.*list'),
        (
            "",
            lambda rows: [*rows[:2], {"qid": 1}],
            "val.json, row 2, key 'query-text': .*{\"qid\": 1}",
        ),
        (
            "",
            lambda rows: [rows[0], rows[1] | {"target-image": 74}],
            "row 1, key 'target-image': .*74.*list",
        ),
        # The last image is the target of a query.
        ("corpus", lambda rows: [*rows[:11], {"id": 257, "path": image(257)[1]}], "'00003-42002' .*'241'"),
    ],
)
def test_other_content_is_refused(mini, file, function, message):
    change(mini / f"lasco_val{file and '_'}{file}.json", function)
    refuses(message, lasco.load, str(mini), check_images=False)


def test_from_the_command_line(mini, run):
    record = measured(run, "lasco", mini)
    assert record["protocol_id"] == "lasco/val/reference-kept"
    assert record["results"][0]["metrics"]["recall@1000"] == 100  # of twelve images
