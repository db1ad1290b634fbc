"""CIRCO in its official layout: several targets, its gallery, golden values, and what its server refuses."""

import json
import time

import pytest

from contextcir.benchmarks import circo
from contextcir.benchmarks.base import means, means_by_tag
from contextcir.retrieval.base import Ranking
from tests.benchmarks.layouts import in_gallery_order, refuses, write
from tests.measured import measured
from tests.tiny_triplets import png

IDS = list(range(3, 303, 5))  # 60 ids of up to three digits: as strings, 103 sorts before 23
INFO = "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """Three queries for each split over sixty images, in the official layout."""
    targets = ([IDS[1], IDS[3], IDS[12]], IDS[6:0:-1], [IDS[40]])
    aspects = (["negation", "addition"], ["negation"], [])
    rows = [
        {
            "reference_img_id": IDS[0],
            "target_img_id": targets[number][0],
            "relative_caption": "is held by a {girl}",
            "shared_concept": f"a teddy bear {number}",
            "gt_img_ids": targets[number],
            "id": number,
            "semantic_aspects": aspects[number],
        }
        for number in range(3)
    ]
    write(tmp_path / "annotations/val.json", rows)
    private = ("target_img_id", "gt_img_ids", "semantic_aspects")
    write(tmp_path / "annotations/test.json", [{k: v for k, v in row.items() if k not in private} for row in rows])
    images = [{"license": 1, "file_name": f"{id_:012d}.jpg", "id": id_} for id_ in reversed(IDS)]
    write(tmp_path / INFO, {"info": {}, "images": images, "licenses": []})
    folder = tmp_path / "COCO2017_unlabeled/unlabeled2017"
    folder.mkdir()
    for id_ in IDS:
        (folder / f"{id_:012d}.jpg").write_bytes(png(id_))
    monkeypatch.setattr(circo, "OFFICIAL", dict.fromkeys(("val", "test"), {"queries": 3, "images": 60}))
    return tmp_path


def test_the_official_layout(mini):
    (loaded,) = circo.load(str(mini))
    assert loaded.protocol_id == "circo/val/caption/reference-kept"
    assert loaded.gallery.ids == [str(id_) for id_ in IDS]  # sorted as numbers, whatever the order of the file
    assert loaded.relevance["0"] == {str(IDS[1]), str(IDS[3]), str(IDS[12])}
    assert [query.modification_text for query in loaded.queries] == ["is held by a {girl}"] * 3
    assert loaded.gallery.reference_image(loaded.queries[0]).size == (34, 30)
    scores = loaded.scores(in_gallery_order(loaded, exclude=True))
    # Targets at places 1, 3 and 12 of 3; at places 1 to 6 of 6; at place 40 of 1.
    first = (1 + 2 / 3) / 3
    assert scores["map@5"] == pytest.approx([100 * first, 100, 0])  # min(6, 5) in the denominator
    assert scores["map@10"] == pytest.approx([100 * first, 100, 0])
    assert scores["map@25"] == pytest.approx([100 * (1 + 2 / 3 + 3 / 12) / 3, 100, 0])
    assert scores["map@50"] == pytest.approx([100 * (1 + 2 / 3 + 3 / 12) / 3, 100, 100 / 40])
    # Recall counts the one target only: at places 1, 6 and 40.
    recall = {5: [100, 0, 0], 10: [100, 100, 0], 25: [100, 100, 0], 50: [100, 100, 100]}
    assert {k: list(scores[f"recall@{k}"]) for k in recall} == recall
    by_tag = means_by_tag(loaded.queries, scores)
    assert by_tag["negation"]["map@10"] == pytest.approx(50 * (1 + first)) and by_tag["negation"]["num_queries"] == 2
    assert by_tag["addition"]["map@10"] == pytest.approx(100 * first)


def test_without_the_list_of_images_the_gallery_is_the_folder(mini):
    (listed,) = circo.load(str(mini))
    (mini / INFO).unlink()
    (mini / "COCO2017_unlabeled/unlabeled2017/thumbnail.jpg").touch()
    (found,) = circo.load(str(mini))
    assert found.gallery.ids == listed.gallery.ids and found.gallery.images == listed.gallery.images


def test_each_protocol_and_text_has_its_own_id(mini):
    (concept,) = circo.load(str(mini), text="concept-caption")
    assert concept.protocol_id == "circo/val/concept-caption/reference-kept"
    assert concept.queries[1].modification_text == "find a teddy bear 1 but is held by a {girl}"
    (kept,), (removed,) = circo.load(str(mini)), circo.load(str(mini), protocol="reference-removed")
    assert removed.protocol_id == "circo/val/caption/reference-removed"
    whole = in_gallery_order(kept)  # begins with the reference of all queries
    assert kept.evaluate(whole)["recall@5"] == pytest.approx(100 / 3)
    refuses("reference '3'", removed.evaluate, whole)


def test_missing_and_damaged_data_are_named(mini):
    folder, annotations = mini / "COCO2017_unlabeled/unlabeled2017", mini / "annotations/val.json"
    (folder / f"{IDS[2]:012d}.jpg").unlink()
    refuses("circo val: 1 of 60 .*000000000013.jpg", circo.load, str(mini))
    circo.load(str(mini), check_images=False)
    rows = json.loads(annotations.read_text())
    for changed, message in (
        (rows[:2], "2 queries and 60 images, .* 3 queries and 60 images"),
        ([rows[0], rows[1] | {"gt_img_ids": [*rows[1]["gt_img_ids"], 4]}, rows[2]], "'1' .*target '4'"),
        ([rows[0], rows[1], rows[2] | {"id": 3}], "circo val .*2"),  # the server wants 0, 1, 2
        ([rows[0], {k: v for k, v in rows[1].items() if k != "gt_img_ids"}, rows[2]], "row 1, key 'gt_img_ids'"),
        ({"annotations": rows}, 'val.json: .*{"annotations"'),
    ):
        write(annotations, changed)
        refuses(message, circo.load, str(mini), check_images=False)
    annotations.unlink()
    refuses("val.json", circo.load, str(mini))


def test_an_unknown_gallery_is_refused(mini):
    write(mini / INFO, [{"id": 3}])
    refuses('image_info_unlabeled2017.json: .*{"id": 3}', circo.load, str(mini))
    (mini / INFO).unlink()
    (mini / "COCO2017_unlabeled/unlabeled2017").rename(mini / "elsewhere")
    refuses("image_info_unlabeled2017.json .*unlabeled2017", circo.load, str(mini), check_images=False)


def test_the_submission_for_test(mini):
    parts = circo.load(str(mini), "test")
    assert not parts[0].is_scored and parts[0].queries[0].tags == ()
    refuses("circo/test/caption/reference-kept", parts[0].evaluate, in_gallery_order(parts[0]))
    expected = {str(number): IDS[number + 1 : number + 51] for number in range(3)}
    backwards = list(expected)[::-1]
    contents = circo.submission(parts, [Ranking(backwards, [list(map(str, expected[key])) for key in backwards])])
    assert contents == {"circo_test.json": expected}
    assert list(contents["circo_test.json"]) == ["0", "1", "2"]
    assert json.loads(json.dumps(contents["circo_test.json"])) == contents["circo_test.json"]
    circo.check_submission(parts[0], {key: IDS[:50] for key in ("0", "1", "2")})  # the reference, which is kept


@pytest.mark.parametrize(
    ("protocol", "changes", "message"),
    [
        ("reference-kept", {"2": None}, " 1, .*'2'"),
        ("reference-kept", {"3": IDS[:50]}, " 1, .*'3'"),
        ("reference-kept", {"0": None, "00": IDS[:50]}, " 1, .*'0'"),
        ("reference-kept", {"1": list(map(str, IDS[:50]))}, ".*'1' .*'3'"),
        ("reference-kept", {"1": [*IDS[:49], 248.0]}, ".*'1' .*248.0"),
        ("reference-kept", {"1": [*IDS[:49], True]}, ".*'1' .*True"),
        ("reference-kept", {"1": IDS[:49]}, ".*'1' .*49.*50"),
        ("reference-kept", {"1": IDS[:51]}, ".*'1' .*51.*50"),
        ("reference-kept", {"1": [*IDS[:49], IDS[7]]}, ".*'1' .*'38'"),
        ("reference-kept", {"1": [*IDS[:49], 4]}, ".*'1' .*'4'.*gallery"),
        ("reference-removed", {"1": IDS[:50]}, ".*'1' .*reference '3'"),
    ],
)
def test_submissions_that_the_server_refuses(mini, protocol, changes, message):
    (loaded,) = circo.load(str(mini), "test", protocol=protocol)
    content = circo.submission([loaded], [in_gallery_order(loaded, exclude=True)])["circo_test.json"]
    circo.check_submission(loaded, content)
    changed = {key: ids for key, ids in (content | changes).items() if ids is not None}
    refuses(message, circo.check_submission, loaded, changed)


def test_from_the_command_line(mini, run):
    record = measured(run, "circo", mini, "--protocol", "reference-removed", "--text", "concept-caption")
    assert record["protocol_id"] == "circo/val/concept-caption/reference-removed"
    assert [result["retriever"] for result in record["results"][1:]][:2] == ["CLIP, image only", "CLIP, text only"]
    assert "map@10" in record["results"][0]["by_tag"]["negation"]


# --- real annotations ------------------------------------------------------------------------------------------------


def example(data_root, split: str) -> dict:
    return json.loads((data_root / f"circo/submission_examples/submission_{split}.json").read_text())


@pytest.fixture(scope="module")
def real(data_root, tmp_path_factory):
    """The real annotations, and a list of as many images as COCO's with all that they or the examples name."""
    root = tmp_path_factory.mktemp("circo")
    (root / "annotations").symlink_to(data_root / "circo/annotations")
    named: set[int] = set()
    for split in circo.SPLITS:
        for row in json.loads((root / f"annotations/{split}.json").read_text()):
            named.update([row["reference_img_id"], *row.get("gt_img_ids", [])])
        named.update(*example(data_root, split).values())
    ids = [*named, *range(1_000_000, 1_000_000 + 123_403 - len(named))]
    write(root / INFO, {"images": [{"id": id_, "file_name": f"{id_:012d}.jpg"} for id_ in ids]})
    return root


def test_golden_values(data_root, real):
    (loaded,) = circo.load(str(real), check_images=False)
    (expected,) = json.loads((data_root / "golden/circo_val_expected.json").read_text())["expected"].values()
    content = example(data_root, "val")
    scores = loaded.scores(Ranking(list(content), [list(map(str, ids)) for ids in content.values()]))
    wanted = {f"map@{k}": 100 * value for k, value in expected["mAP"].items()}
    wanted |= {f"recall@{k}": 100 * value for k, value in expected["recall"].items()}
    assert means(scores) == pytest.approx(wanted, abs=1e-12)
    by_tag = {tag: found["map@10"] for tag, found in means_by_tag(loaded.queries, scores).items()}
    assert by_tag == pytest.approx({k: 100 * v for k, v in expected["semantic_mAP@10"].items()}, abs=1e-12)
    assert sum(map(len, loaded.relevance.values())) / 220 == pytest.approx(4.1636, abs=1e-4)
    for query in loaded.queries:
        assert loaded.main_targets[query.id] in loaded.relevance[query.id]
        assert query.reference_id not in loaded.relevance[query.id]
    (removed,) = circo.load(str(real), protocol="reference-removed", check_images=False)
    refuses("'189' .*reference", circo.check_submission, removed, content)  # the example keeps references


@pytest.mark.parametrize(("split", "queries"), [("val", 220), ("test", 800)])
def test_the_examples_are_accepted(data_root, real, split, queries):
    start = time.process_time()
    (loaded,) = circo.load(str(real), split, check_images=False)
    assert time.process_time() - start < 5
    assert len(loaded.queries) == queries and len(loaded.gallery) == 123_403
    assert all(query.reference_id in loaded.gallery.positions for query in loaded.queries)
    content = example(data_root, split)
    circo.check_submission(loaded, content)
    ranking = Ranking(list(content), [list(map(str, ids)) for ids in content.values()])
    assert circo.submission([loaded], [ranking]) == {f"circo_{split}.json": content}
