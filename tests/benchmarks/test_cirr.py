"""CIRR in its official layout: counts, protocol, golden values, and the submissions that its server refuses."""

import json

import pytest

from contextcir.benchmarks import cirr
from contextcir.cli import benchmark as command
from contextcir.retrieval.ranking import rank
from tests.benchmarks.layouts import golden_embeds, in_gallery_order, refuses, write
from tests.tiny_triplets import png

NAMES = [f"dev-{number}-0-img0" for number in range(60)]
CAPTIONS = "captions/cap.rc2.val.json"


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """Four queries of three image sets over sixty images, for both splits, in the official layout."""
    for split, folder in (("val", "dev"), ("test1", "test1")):
        rows = [
            {
                "pairid": 100 + number,
                "reference": NAMES[number],
                "target_hard": NAMES[number + 1],
                "target_soft": {NAMES[number + 2]: -1.0},
                "caption": "make the dog red",
                "img_set": {"id": number // 2, "members": NAMES[number : number + 6]},
            }
            for number in range(4)
        ]
        if split == "test1":
            rows = [{key: value for key, value in row.items() if "target" not in key} for row in rows]
        write(tmp_path / f"captions/cap.rc2.{split}.json", rows)
        write(tmp_path / f"image_splits/split.rc2.{split}.json", {name: f"./{folder}/{name}.png" for name in NAMES})
        (tmp_path / folder).mkdir()
        for number, name in enumerate(NAMES):
            (tmp_path / folder / f"{name}.png").write_bytes(png(number))
    monkeypatch.setattr(cirr, "OFFICIAL", dict.fromkeys(("val", "test1"), {"queries": 4, "images": 60}))
    return tmp_path


def test_the_official_layout(mini):
    (loaded,) = cirr.load(str(mini))
    assert loaded.protocol_id == "cirr/rc2/val/reference-excluded"
    assert [query.id for query in loaded.queries] == ["100", "101", "102", "103"]  # pairid, not the image set
    assert loaded.relevance["102"] == {NAMES[3]}  # target_hard alone
    assert len(loaded.gallery) == 60  # also those that are never a reference
    assert loaded.gallery.reference_image(loaded.queries[0]).size == (34, 30)
    assert loaded.evaluate(in_gallery_order(loaded)) == {
        **{"recall@1": 25, "recall@2": 50, "recall@5": 100, "recall@10": 100, "recall@50": 100},
        **{"recall_subset@1": 100, "recall_subset@2": 100, "recall_subset@3": 100},
    }


def test_missing_and_damaged_data_are_named(mini):
    for name in NAMES[3:5]:
        for folder in ("dev", "test1"):
            (mini / folder / f"{name}.png").unlink()
    refuses("2 of 60 .*dev-3-0-img0.png, .*dev-4-0", cirr.load, str(mini))
    captions = mini / CAPTIONS
    rows = json.loads(captions.read_text())
    write(captions, rows[:3])
    refuses("3 queries and 60 images, .* 4 queries and 60 images", cirr.load, str(mini))
    write(captions, [*rows[:2], {key: value for key, value in rows[2].items() if key != "caption"}, rows[3]])
    refuses("cap.rc2.val.json, row 2, key 'caption'", cirr.load, str(mini))
    write(captions, [])
    refuses("cap.rc2.val.json", cirr.load, str(mini))
    captions.write_text(json.dumps(rows)[:-1])
    refuses(r"cap.rc2.val.json .*line 1 column \d+", cirr.load, str(mini))
    captions.unlink()
    refuses("cap.rc2.val.json", cirr.load, str(mini))
    write(captions, rows)
    write(mini / "image_splits/split.rc2.val.json", NAMES)
    refuses("split.rc2.val.json: .*dev-0-0", cirr.load, str(mini))


def test_training_triplets(mini, monkeypatch):
    for name in ("captions/cap", "image_splits/split"):
        (mini / f"{name}.rc2.train.json").write_text((mini / f"{name}.rc2.val.json").read_text())
    refuses("4 queries and 60 images, .* 28,225 queries and 16,939", next, cirr.training_triplets(str(mini)))
    monkeypatch.setattr(cirr, "TRAINING", {"queries": 4, "images": 60})
    rows = list(cirr.training_triplets(str(mini)))
    assert [row["id"] for row in rows] == ["100", "101", "102", "103"]
    assert rows[1] == {
        "id": "101",
        "modification_text": "make the dog red",
        "reference_id": NAMES[1],
        "target_id": NAMES[2],  # target_hard
        "reference_image": mini / "dev" / f"{NAMES[1]}.png",
        "target_image": mini / "dev" / f"{NAMES[2]}.png",
    }
    for folder in ("dev", "test1"):
        (mini / folder / f"{NAMES[9]}.png").unlink()
    refuses("1 of 60 .*dev-9-0-img0", next, cirr.training_triplets(str(mini)))


def test_a_gallery_without_a_target_is_refused(mini, monkeypatch):
    images = {name: f"./dev/{name}.png" for name in NAMES if name != NAMES[4]}  # target of one, reference of none
    write(mini / "image_splits/split.rc2.val.json", images)
    monkeypatch.setattr(cirr, "OFFICIAL", {"val": {"queries": 4, "images": 59}})
    refuses("cap.rc2.val.json, row 3, key 'target_hard': .*'dev-4-0-img0'", cirr.load, str(mini))


def test_the_submission_for_test1(mini):
    (loaded,) = cirr.load(str(mini), "test1")
    refuses("cirr/rc2/test1/reference-excluded", loaded.evaluate, in_gallery_order(loaded))
    contents = cirr.submission([loaded], [in_gallery_order(loaded)])
    assert sorted(contents) == ["test1_recall.json", "test1_recall_subset.json"]
    for metric, length in (("recall", 50), ("recall_subset", 3)):
        content = contents[f"test1_{metric}.json"]
        assert (content.pop("version"), content.pop("metric")) == ("rc2", metric)
        assert sorted(content) == ["100", "101", "102", "103"]
        assert all(len(names) == length for names in content.values())


@pytest.mark.parametrize(
    ("metric", "changes", "message"),
    [
        ("recall", {"version": "rc1"}, "'rc2' .*'rc1'"),
        ("recall", {"metric": "ndcg"}, "recall, recall_subset, .*'ndcg'"),
        ("recall", {"102": None}, " 1, .*'102'"),
        ("recall", {"36": NAMES[:50]}, " 1, .*'36'"),  # an image set's id
        ("recall", {"100": NAMES[1:50]}, "'100' .*49.*50"),
        ("recall", {"100": [*NAMES[1:50], NAMES[1]]}, "'100' .*'dev-1-0-img0'"),
        ("recall", {"101": NAMES[:50]}, "'101' .*reference 'dev-1-0-img0'"),
        ("recall", {"100": [*NAMES[1:50], "dev-9-9-img9"]}, "'100' .*'dev-9-9-img9'.*gallery"),
        ("recall_subset", {"100": NAMES[1:5]}, "'100' .*4.*3"),
        ("recall_subset", {"100": NAMES[:3]}, "'100' .*reference 'dev-0-0-img0'"),
        ("recall_subset", {"100": [*NAMES[1:3], NAMES[30]]}, "'100' .*'dev-30-0-img0'.*candidates"),
    ],
)
def test_submissions_that_the_server_refuses(mini, metric, changes, message):
    (loaded,) = cirr.load(str(mini), "test1")
    content = cirr.submission([loaded], [in_gallery_order(loaded)])[f"test1_{metric}.json"]
    cirr.check_submission(loaded, content)
    changed = {key: value for key, value in (content | changes).items() if value is not None}
    refuses(message, cirr.check_submission, loaded, changed)


def test_a_file_over_5_mb_is_refused(mini, monkeypatch):
    (loaded,) = cirr.load(str(mini), "test1")
    monkeypatch.setattr(cirr, "MAX_BYTES", 1000)
    refuses("1,000", cirr.submission, [loaded], [in_gallery_order(loaded)])


def test_from_the_command_line(mini, run, capsys):
    arguments = ["--retriever", str(run), "--benchmark", "cirr", "--data-root", str(mini), "--split"]
    assert command.main([*arguments, "val"])["results"][0]["metrics"]["recall@50"] > 0
    refuses("cirr/rc2/test1/.*--submission", command.main, [*arguments, "test1"])
    record = command.main([*arguments, "test1", "--submission", str(mini / "out")])
    assert record["results"] == []  # nothing to score
    written = json.loads((mini / "out" / "test1_recall.json").read_text())
    cirr.check_submission(*cirr.load(str(mini), "test1"), written)
    assert "test1_recall_subset.json" in capsys.readouterr().out


def test_golden_values(data_root):
    (loaded,) = cirr.load(str(data_root / "cirr"), check_images=False)
    expected = json.loads((data_root / "golden/cirr_val_expected.json").read_text())["expected_exact"]
    embeds = golden_embeds(data_root / "golden", "cirr_val_")
    ranking = rank(loaded.queries, loaded.gallery, *embeds, 50, exclude_reference=True)
    wanted = {f"recall@{k}": value for k, value in expected["recall_percent"].items()}
    wanted |= {f"recall_subset@{k}": value for k, value in expected["recall_subset_percent"].items()}
    assert loaded.evaluate(ranking) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("metric", ["recall", "recall_subset"])
def test_files_that_the_server_accepted_are_accepted(data_root, metric):
    root = data_root / "cirr"
    (loaded,) = cirr.load(str(root), "test1", check_images=False)
    content = json.loads((root / "demo_files" / f"test1_pred_ranks_{metric}.json").read_text())
    cirr.check_submission(loaded, content)
    assert len(loaded.queries) == 4148 and len(loaded.gallery) == 2315
    assert [query.id for query in loaded.queries if not query.modification_text.strip()] == ["27098"]
    references = {query.reference_id for query in loaded.queries}
    assert len(loaded.gallery.positions.keys() - references) == 137  # never a reference, and in the gallery
