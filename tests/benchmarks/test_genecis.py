"""GeneCIS in its official layout: four tasks, ties against the target, crops of images, golden values."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from contextcir.benchmarks import genecis
from contextcir.data.images import ImageError
from contextcir.retrieval.base import Ranking
from contextcir.retrieval.ranking import rank
from tests.benchmarks.layouts import change, refuses, write
from tests.measured import measured
from tests.tiny_triplets import png

TASKS = ["focus_attribute", "change_attribute", "focus_object", "change_object"]


def coco(number):
    return {"val_image_id": number}


def crop(number, *box):
    return {"image_id": number, "instance_bbox": list(box), "object_name": "dog"}


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """Two queries of two distractors for each task, in the official layout."""
    objects = [
        {"reference": coco(1), "target": coco(2), "gallery": [coco(3), coco(4)], "condition": "ceiling"},
        {"reference": coco(2), "target": coco(1), "gallery": [coco(4), coco(5)], "condition": "dog"},
    ]
    attributes = [
        {
            "reference": crop(11, 1, 2, 8, 8),
            "target": crop(12, 10, 5, 10, 10),
            "gallery": [crop(11, 20, 10, 10, 4), crop(12, 1, 2, 8, 8)],
            "condition": "color",
        },
        {
            "reference": crop(12, 10, 5, 10, 10),
            "target": crop(11, 1, 2, 8, 8),
            "gallery": [crop(12, 1, 2, 8, 8), crop(11, 30, 20, 10, 10)],
            "condition": "material",
        },
    ]
    for task in TASKS:
        write(tmp_path / f"{task}.json", objects if "object" in task else attributes)
    for folder, numbers in (("val2017", range(1, 6)), ("VG_100K", [11]), ("VG_100K_2", [12])):
        (tmp_path / folder).mkdir()
        for number in numbers:
            name = f"{number:012d}.jpg" if folder == "val2017" else f"{number}.jpg"
            (tmp_path / folder / name).write_bytes(png(number, (40, 30)))
    monkeypatch.setattr(
        genecis, "OFFICIAL", dict.fromkeys(("focus_object", "change_object"), {"queries": 2, "candidates": 6})
    )
    return tmp_path


def change_row(root, task, row, **changes):
    """Change the keys of a row; remove those that become `None`."""

    def changed(rows):
        rows[row] = {key: value for key, value in (rows[row] | changes).items() if value is not None}
        return rows

    change(root / f"{task}.json", changed)


def ranked(benchmark, candidates) -> Ranking:
    ids = [query.id for query in benchmark.queries]
    return Ranking(ids, [[benchmark.gallery.ids[0]]] * len(ids), candidate_ids=candidates)


def test_the_official_layout(mini):
    parts = genecis.load(str(mini))
    assert [part.part for part in parts] == TASKS
    assert {part.protocol_id for part in parts} == {"genecis/v0/all/ties-against-target"}
    assert parts[0].gallery is parts[1].gallery and parts[2].gallery is parts[3].gallery  # encoded once
    assert parts[3].gallery.ids == ["1", "3", "4", "2", "5"]
    first, second = parts[3].queries
    assert (first.id, first.modification_text, first.reference_id) == ("change_object-0000", "ceiling", "1")
    assert first.candidate_ids == ("3", "4", "2")  # the target is last
    assert parts[3].relevance == {"change_object-0000": {"2"}, "change_object-0001": {"1"}}
    stored = Image.open(mini / "val2017/000000000002.jpg")
    assert parts[3].gallery.reference_image(second).tobytes() == stored.tobytes()
    assert parts[0].queries[0].candidate_ids == ("11/20,10,10,4", "12/1,2,8,8", "12/10,5,10,10")
    assert len(parts[0].gallery) == 5  # each crop once, also if several queries have it


def test_only_the_candidates_are_ranked(mini):
    part = genecis.load(str(mini))[3]
    assert part.evaluate(ranked(part, [["3", "2", "4"], ["1", "4", "5"]])) == {
        "recall@1": 50,
        "recall@2": 100,
        "recall@3": 100,
    }
    assert part.chance() == pytest.approx({"recall@1": 100 / 3, "recall@2": 200 / 3, "recall@3": 100})
    with pytest.raises(ValueError, match=r"'change_object-0001' .*\['1', '4'\].*\['4', '5', '1'\]"):
        part.scores(ranked(part, [["3", "2", "4"], ["1", "4"]]))


def test_ties_count_against_the_target(mini):
    """A known mistake: the target is first in the file, so a constant score always finds it."""
    for part in genecis.load(str(mini)):
        same = torch.ones(len(part.gallery), 3)
        ranking = rank(part.queries, part.gallery, torch.ones(2, 3), same, part.k)
        assert part.evaluate(ranking) == {"recall@1": 0, "recall@2": 0, "recall@3": 100}


def test_a_second_mention_is_a_candidate_of_its_own(mini):
    change_row(mini, "change_object", 0, gallery=[coco(2), coco(4)])  # the target
    change_row(mini, "change_object", 1, gallery=[coco(2), coco(5)])  # the reference
    (part,) = genecis.load(str(mini), "change_object")
    assert [query.ranked_candidate_ids for query in part.queries] == [["2", "4", "2#2"], ["2#2", "5", "1"]]
    assert part.relevance["change_object-0000"] == {"2#2"}
    assert part.gallery.image("2").tobytes() == part.gallery.image("2#2").tobytes()
    assert part.evaluate(ranked(part, [["2", "2#2", "4"], ["1", "5", "2#2"]]))["recall@1"] == 50


@pytest.mark.parametrize(
    "id_, box, size, offset",
    [
        # 0.7 of 10 to the left, to the edge above; 17 pixels from there
        ("12/10,5,10,10", (3, 0, 20, 17), 17, (0, 0)),
        # left 13, top 7.2, right 30, bottom 14: flat, so 10 black rows around it
        ("11/20,10,10,4", (13, 7, 30, 14), 17, (0, 5)),
        ("11/1,2,8,8", (0, 0, 14, 14), 14, (0, 0)),  # up to the edges, and 13.6 from there
        ("11/30,20,10,10", (23, 13, 40, 30), 17, (0, 0)),
    ],
)
def test_crops_by_hand(mini, id_, box, size, offset):
    (part,) = genecis.load(str(mini), "focus_attribute")
    folder = "VG_100K_2" if id_.startswith("12/") else "VG_100K"
    photograph = Image.open(mini / folder / f"{id_.split('/')[0]}.jpg").convert("RGB")
    expected = np.zeros((size, size, 3), dtype=np.uint8)
    cut = np.asarray(photograph)[box[1] : box[3], box[0] : box[2]]
    expected[offset[1] : offset[1] + cut.shape[0], offset[0] : offset[0] + cut.shape[1]] = cut
    np.testing.assert_array_equal(np.asarray(part.gallery.image(id_)), expected)


def test_a_box_outside_of_its_image_is_named(mini):
    change_row(mini, "focus_attribute", 0, target=crop(12, 70, 5, 10, 10))
    (part,) = genecis.load(str(mini), "focus_attribute")
    with pytest.raises(ImageError, match=r"12.jpg: .*\[70, 5, 10, 10\].* 40 x 30 "):
        part.gallery.image("12/70,5,10,10")


def test_one_task_alone(mini):
    for task in TASKS[:3]:
        (mini / f"{task}.json").unlink()
    (part,) = genecis.load(str(mini), "change_object")
    assert (part.part, part.protocol_id) == ("change_object", "genecis/v0/change_object/ties-against-target")
    message = r"focus_attribute.json, change_attribute.json, focus_object.json[^,].*\(change_object\)"
    refuses(message, genecis.load, str(mini))
    (mini / "change_object.json").unlink()
    refuses(r"genecis change_object: .* change_object.json.* \(none\)", genecis.load, str(mini), "change_object")


def test_missing_images_are_named(mini):
    (mini / "VG_100K" / "11.jpg").unlink()
    (mini / "val2017" / "000000000004.jpg").unlink()
    refuses("genecis change_object: 1 of 5 .*000004.jpg", genecis.load, str(mini), "change_object")
    refuses("genecis focus_attribute: 1 of 2 .*/11.jpg", genecis.load, str(mini), "focus_attribute")
    assert len(genecis.load(str(mini), check_images=False)) == 4


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("change_object", {"condition": None}, "change_object.json, row 1, key 'condition'"),
        (
            "focus_object",
            {"gallery": [coco(3), crop(1, 2, 3, 4, 5)]},
            "row 1, key 'gallery.1.val_image_id'",
        ),
        ("focus_attribute", {"target": {"image_id": 11}}, "focus_attribute.json, row 1, key 'target.instance_bbox'"),
        ("change_object", {"gallery": [coco(3)]}, "2 queries and 5 candidates, .* 2 queries and 6 candidates"),
        ("change_object", {"condition": " "}, "'change_object-0001'"),
    ],
)
def test_a_damaged_row_is_named(mini, task, changes, message):
    change_row(mini, task, 1, **changes)
    refuses(message, genecis.load, str(mini))


@pytest.mark.parametrize("task", TASKS)
def test_an_empty_file_is_named(mini, task):
    write(mini / f"{task}.json", [])
    refuses(f"{task}.json", genecis.load, str(mini))


def test_from_the_command_line(mini, run):
    record = measured(run, "genecis", mini)
    assert len(record["results"][0]["parts"]) == 4
    assert record["results"][0]["metrics"]["recall@3"] == 100  # of three candidates
    assert record["chance"]["recall@1"] == pytest.approx(100 / 3)


# --- real annotations ------------------------------------------------------------------------------------------------


def test_golden_values(data_root):
    (part,) = genecis.load(str(data_root / "genecis"), "change_object", check_images=False)
    scores = json.loads((data_root / "golden/genecis_change_object_scores.json").read_text())  # the target is first
    expected = json.loads((data_root / "golden/genecis_expected.json").read_text())["expected"]["change_object"]
    candidates = []
    for query, (of_target, *of_others) in zip(part.queries, scores, strict=True):
        order = np.argsort(-np.array([*of_others, of_target]), kind="stable")
        candidates.append([query.candidate_ids[place] for place in order])
    found = part.evaluate(ranked(part, candidates))
    assert found == pytest.approx({f"recall@{k}": 100 * hits / 1960 for k, hits in expected["exact_hits"].items()})
    assert found == pytest.approx({f"recall@{k}": 100 * share for k, share in expected["peer_get_recall"].items()})


def test_the_counts_are_official(data_root):
    (part,) = genecis.load(str(data_root / "genecis"), "change_object", check_images=False)
    assert len(part.queries) == 1960
    assert {len(query.ranked_candidate_ids) for query in part.queries} == {15}
    assert len(part.gallery) == 2739 + 1  # and the one target that is a distractor too
    repeated = [query.id for query in part.queries if any("#" in id_ for id_ in query.candidate_ids)]
    assert repeated == ["change_object-0019"]
    assert part.chance()["recall@1"] == pytest.approx(100 / 15)
