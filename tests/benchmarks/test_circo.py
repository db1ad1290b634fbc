"""CIRCO in its official layout: several targets, its gallery, golden values, and what its server refuses."""

import json
import os
import time
from pathlib import Path

import pytest

from contextcir.benchmarks import circo
from contextcir.benchmarks.base import means, means_by_tag
from contextcir.retrieval.base import Ranking
from tests.measured import measured
from tests.tiny_triplets import png

needs_real_data = pytest.mark.skipif("CIR_DATA_ROOT" not in os.environ, reason="CIR_DATA_ROOT is not set: no CIRCO")
IDS = list(range(3, 303, 5))  # 60 ids of up to three digits: as text, 103 sorts before 23
INFO = "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """Three queries for each split over sixty images, in the official layout."""
    targets, aspects = (
        ([IDS[1], IDS[3], IDS[12]], IDS[6:0:-1], [IDS[40]]),
        (["negation", "addition"], ["negation"], []),
    )
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


def ranked(benchmark) -> Ranking:
    """The gallery in its own order, the reference left out."""
    others = [[id_ for id_ in benchmark.gallery.ids if id_ != query.reference_id] for query in benchmark.queries]
    return Ranking([query.id for query in benchmark.queries], [ids[:50] for ids in others])


def test_the_official_layout(mini):
    (loaded,) = circo.load(str(mini))
    assert loaded.protocol_id == "circo/val/caption/reference-kept"
    assert loaded.gallery.ids == [str(id_) for id_ in IDS]  # numbers in their order, whatever that of the file
    assert loaded.relevance["0"] == {str(IDS[1]), str(IDS[3]), str(IDS[12])}
    assert [query.modification_text for query in loaded.queries] == ["is held by a {girl}"] * 3
    assert loaded.gallery.reference_image(loaded.queries[0]).size == (34, 30)
    scores = loaded.scores(ranked(loaded))
    # Targets at places 1, 3 and 12 of 3; at places 1 to 6 of 6; at place 40 of 1.
    first = (1 + 2 / 3) / 3
    assert scores["map@5"] == pytest.approx([100 * first, 100, 0])  # min(6, 5) in the denominator
    assert scores["map@10"] == pytest.approx([100 * first, 100, 0])
    assert scores["map@25"] == pytest.approx([100 * (1 + 2 / 3 + 3 / 12) / 3, 100, 0])
    assert scores["map@50"] == pytest.approx([100 * (1 + 2 / 3 + 3 / 12) / 3, 100, 100 / 40])
    # Recall counts the one target only: at places 1, 6 and 40.
    assert [list(scores[f"recall@{k}"]) for k in (5, 10, 25, 50)] == [
        [100, 0, 0],
        [100, 100, 0],
        [100, 100, 0],
        [100, 100, 100],
    ]
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
    whole = Ranking(["0", "1", "2"], [kept.gallery.ids[:50]] * 3)  # begins with the reference of all
    assert kept.evaluate(whole)["recall@5"] == pytest.approx(100 / 3)
    with pytest.raises(ValueError, match="holds its reference '3'"):
        removed.evaluate(whole)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"split": "test1"}, "val, test, got 'test1'"),
        ({"protocol": "reference-excluded"}, "reference-kept, reference-removed, got 'reference-excluded'"),
        ({"text": "concept"}, "caption, concept-caption, got 'concept'"),
    ],
)
def test_unknown_choices_list_the_valid_ones(mini, choice, message):
    with pytest.raises(ValueError, match=message):
        circo.load(str(mini), **choice)


def test_what_is_missing_or_damaged_is_named(mini):
    folder, annotations = mini / "COCO2017_unlabeled/unlabeled2017", mini / "annotations/val.json"
    (folder / f"{IDS[2]:012d}.jpg").unlink()
    with pytest.raises(ValueError, match="circo val: 1 of 60 images are missing, such as .*000000000013.jpg"):
        circo.load(str(mini))
    circo.load(str(mini), check_images=False)
    rows = json.loads(annotations.read_text())
    write(annotations, rows[:2])
    with pytest.raises(ValueError, match="has 2 queries and 60 images, the official release 3 queries and 60 images"):
        circo.load(str(mini))
    write(annotations, [rows[0], {**rows[1], "gt_img_ids": [*rows[1]["gt_img_ids"], 4]}, rows[2]])
    with pytest.raises(ValueError, match="query '1' has the target '4', which is not in the gallery"):
        circo.load(str(mini), check_images=False)
    del rows[1]["gt_img_ids"]
    write(annotations, rows)
    with pytest.raises(ValueError, match="val.json, row 1: expected a list of objects with gt_img_ids, .*, got {'ref"):
        circo.load(str(mini))
    write(annotations, {"annotations": rows})
    with pytest.raises(ValueError, match="val.json, row 0: expected a list of objects with .*, got {'annotations'"):
        circo.load(str(mini))
    annotations.unlink()
    with pytest.raises(ValueError, match="val.json is missing"):
        circo.load(str(mini))


def test_a_gallery_that_cannot_be_known_is_not_guessed(mini):
    write(mini / INFO, [{"id": 3}])
    with pytest.raises(ValueError, match="image_info_unlabeled2017.json has no list of 'images' with 'id' and"):
        circo.load(str(mini))
    (mini / INFO).unlink()
    folder = mini / "COCO2017_unlabeled/unlabeled2017"
    folder.rename(mini / "elsewhere")
    with pytest.raises(ValueError, match="neither .*image_info_unlabeled2017.json nor .*unlabeled2017. Get one"):
        circo.load(str(mini), check_images=False)


def test_targets_of_test_are_not_public(mini):
    parts = circo.load(str(mini), "test")
    assert not parts[0].is_scored and parts[0].queries[0].tags == ()
    with pytest.raises(ValueError, match="circo/test/caption/reference-kept: the targets are not public"):
        parts[0].evaluate(ranked(parts[0]))
    expected = {str(number): IDS[number + 1 : number + 51] for number in range(3)}
    backwards = list(expected)[::-1]
    files = circo.submission(parts, [Ranking(backwards, [list(map(str, expected[key])) for key in backwards])])
    assert files == {"circo_test.json": expected}
    assert list(files["circo_test.json"]) == ["0", "1", "2"]
    assert json.loads(json.dumps(files["circo_test.json"])) == files["circo_test.json"]


@pytest.mark.parametrize(
    ("protocol", "changes", "message"),
    [
        ("reference-kept", {"2": None}, "misses 1 keys, such as '2'. Expected '0' to '2'"),
        ("reference-kept", {"3": IDS[:50]}, "invents 1 keys, such as '3'. Expected '0' to '2'"),
        ("reference-kept", {"0": None, "00": IDS[:50]}, "misses 1 keys, such as '0'"),
        ("reference-kept", {"1": list(map(str, IDS[:50]))}, "query 1, holds '3', expected integers"),
        ("reference-kept", {"1": [*IDS[:49], 248.0]}, "query 1, holds 248.0, expected integers"),
        ("reference-kept", {"1": [*IDS[:49], True]}, "query 1, holds True, expected integers"),
        ("reference-kept", {"1": IDS[:49]}, "query 1, holds 49 ids, expected 50"),
        ("reference-kept", {"1": IDS[:51]}, "query 1, holds 51 ids, expected 50"),
        ("reference-kept", {"1": [*IDS[:49], IDS[7]]}, "query 1, the ids hold the id 38 more than once"),
        ("reference-kept", {"1": [*IDS[:49], 4]}, "query 1, holds 4, which is not in the gallery"),
        ("reference-removed", {"1": IDS[:50]}, "query 1, holds its reference 3, which the protocol removes"),
    ],
)
def test_what_the_server_would_refuse_is_refused(mini, protocol, changes, message):
    (loaded,) = circo.load(str(mini), "test", protocol=protocol)
    content = circo.submission([loaded], [ranked(loaded)])["circo_test.json"]
    circo.check_submission(loaded, content)
    changed = {key: ids for key, ids in (content | changes).items() if ids is not None}
    with pytest.raises(ValueError, match=message):
        circo.check_submission(loaded, changed)


def test_a_submission_may_hold_the_reference_where_it_is_kept(mini):
    (loaded,) = circo.load(str(mini), "test")
    circo.check_submission(loaded, {key: IDS[:50] for key in ("0", "1", "2")})


def test_from_the_command_line(mini, run):
    record = measured(run, "circo", mini, "--protocol", "reference-removed", "--text", "concept-caption")
    assert record["protocol_id"] == "circo/val/concept-caption/reference-removed"
    assert [result["retriever"] for result in record["results"][1:]][:2] == ["CLIP, image only", "CLIP, text only"]
    assert "map@10" in record["results"][0]["by_tag"]["negation"]


# --- the real thing --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real annotations, beside a list of as many images as COCO's that has all which they or the examples name."""
    source, root = Path(os.environ["CIR_DATA_ROOT"]) / "circo", tmp_path_factory.mktemp("circo")
    (root / "annotations").symlink_to(source / "annotations")
    named: set[int] = set()
    for split in circo.SPLITS:
        for row in json.loads((source / f"annotations/{split}.json").read_text()):
            named.update([row["reference_img_id"], *row.get("gt_img_ids", [])])
        examples = json.loads((source / f"submission_examples/submission_{split}.json").read_text())
        named.update(*examples.values())
    ids = [*named, *range(1_000_000, 1_000_000 + 123_403 - len(named))]
    write(root / INFO, {"images": [{"id": id_, "file_name": f"{id_:012d}.jpg"} for id_ in ids]})
    return root


def example(split: str) -> dict:
    root = Path(os.environ["CIR_DATA_ROOT"]) / "circo"
    return json.loads((root / f"submission_examples/submission_{split}.json").read_text())


@needs_real_data
def test_golden_values(real):
    (loaded,) = circo.load(str(real), check_images=False)
    golden = Path(os.environ["CIR_DATA_ROOT"]) / "golden/circo_val_expected.json"
    (expected,) = json.loads(golden.read_text())["expected"].values()
    content = example("val")
    ranking = Ranking(list(content), [list(map(str, ids)) for ids in content.values()])
    scores = loaded.scores(ranking)
    wanted = {f"map@{k}": 100 * value for k, value in expected["mAP"].items()}
    wanted |= {f"recall@{k}": 100 * value for k, value in expected["recall"].items()}
    assert means(scores) == pytest.approx(wanted, abs=1e-12)
    by_tag = {tag: found["map@10"] for tag, found in means_by_tag(loaded.queries, scores).items()}
    assert by_tag == pytest.approx({k: 100 * v for k, v in expected["semantic_mAP@10"].items()}, abs=1e-12)
    assert sum(map(len, loaded.relevance.values())) / 220 == pytest.approx(4.1636, abs=1e-4)
    for query in loaded.queries:
        assert loaded.main_targets[query.id] in loaded.relevance[query.id]
        assert query.reference_id not in loaded.relevance[query.id]


@needs_real_data
@pytest.mark.parametrize(("split", "queries"), [("val", 220), ("test", 800)])
def test_the_examples_are_accepted(real, split, queries):
    (loaded,) = circo.load(str(real), split, check_images=False)
    assert len(loaded.queries) == queries and len(loaded.gallery) == 123_403
    assert all(query.reference_id in loaded.gallery.positions for query in loaded.queries)
    content = example(split)
    circo.check_submission(loaded, content)
    ranking = Ranking(list(content), [list(map(str, ids)) for ids in content.values()])
    assert circo.submission([loaded], [ranking]) == {f"circo_{split}.json": content}


@needs_real_data
def test_the_example_keeps_references(real):
    (removed,) = circo.load(str(real), protocol="reference-removed", check_images=False)
    with pytest.raises(ValueError, match="query 189, holds its reference"):
        circo.check_submission(removed, example("val"))


@needs_real_data
def test_loading_123403_images_takes_seconds_at_most(real):
    start = time.process_time()
    circo.load(str(real), "test", check_images=False)
    assert time.process_time() - start < 5
