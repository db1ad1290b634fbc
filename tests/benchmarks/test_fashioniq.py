"""FashionIQ in its official layout: three parts, three protocols, five ways to join two captions, golden values."""

import json

import pytest

from contextcir.benchmarks import fashioniq
from contextcir.retrieval.ranking import rank
from tests.benchmarks.layouts import change, golden_embeds, in_gallery_order, refuses, write
from tests.measured import measured
from tests.tiny_triplets import png

CAPTIONS = [["is Darker.", " has long sleeves, "], ["", "is grey"], ["is shorter", "is red"]]


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """Three pairs of captions over fifteen images for each part and split, in the official layout."""
    for part in fashioniq.PARTS:
        ids = [f"{part[0].upper()}{number:02d}" for number in range(14, -1, -1)]  # not sorted, like the real ones
        targets = [ids[2], ids[3], ids[11]]
        rows = [{"candidate": ids[number], "captions": CAPTIONS[number]} for number in range(3)]
        write(tmp_path / f"captions/cap.{part}.test.json", rows)
        rows = [{"target": target, **row} for target, row in zip(targets, rows, strict=True)]
        write(tmp_path / f"captions/cap.{part}.val.json", rows)
        for split in fashioniq.SPLITS:
            write(tmp_path / f"image_splits/split.{part}.{split}.json", ids)
        (tmp_path / "images").mkdir(exist_ok=True)
        for number, id_ in enumerate(ids):
            (tmp_path / "images" / f"{id_}.{'png' if number % 2 else 'jpg'}").write_bytes(png(number))
    counts = {"annotations": 3, "images": 15}
    official = {("test", part): counts for part in fashioniq.PARTS}
    official |= {("val", part): {**counts, "images in the union": 5} for part in fashioniq.PARTS}
    monkeypatch.setattr(fashioniq, "OFFICIAL", official)
    return tmp_path


def test_training_triplets(mini, monkeypatch):
    for part in fashioniq.PARTS:
        captions = mini / f"captions/cap.{part}.val.json"
        captions.with_name(f"cap.{part}.train.json").write_text(captions.read_text())
    refuses("dress train .* 3 annotations, .* 5,985 annotations", next, fashioniq.training_triplets(str(mini)))
    monkeypatch.setattr(fashioniq, "TRAINING", {part: {"annotations": 3} for part in fashioniq.PARTS})
    rows = list(fashioniq.training_triplets(str(mini)))
    assert [row["id"] for row in rows[2:5]] == ["dress-00002", "shirt-00000", "shirt-00001"] and len(rows) == 9
    assert rows[0] == {
        "id": "dress-00000",
        "modification_text": "Is darker and has long sleeves",
        "reference_id": "D14",
        "target_id": "D12",
        "reference_image": mini / "images/D14.jpg",
        "target_image": mini / "images/D12.jpg",
    }
    assert len(list(fashioniq.training_triplets(str(mini), text="separate"))) == 15  # three captions are blank
    (mini / "images/S12.jpg").unlink()
    refuses("fashioniq train .* 1 of 15 .*S12.png", next, fashioniq.training_triplets(str(mini)))


def test_the_official_layout(mini):
    parts = fashioniq.load(str(mini))
    assert [part.part for part in parts] == ["dress", "shirt", "toptee"]
    assert {part.protocol_id for part in parts} == {"fashioniq/val/clip4cir/full"}
    dress = parts[0]
    assert dress.gallery.ids == [f"D{number:02d}" for number in range(14, -1, -1)]
    assert [query.id for query in dress.queries] == ["dress-00000", "dress-00001", "dress-00002"]
    assert dress.relevance["dress-00001"] == {"D11"} and dress.queries[1].reference_id == "D13"
    assert dress.gallery.reference_image(dress.queries[0]).size == (34, 30)  # .jpg
    assert dress.gallery.reference_image(dress.queries[1]).size == (34, 30)  # .png
    # The third target is at place 12 of 15, at 11 without the reference, and at 4 of the union of 5.
    assert dress.evaluate(in_gallery_order(dress)) == {"recall@10": pytest.approx(200 / 3), "recall@50": 100}


def test_the_protocols_differ_in_gallery_and_reference(mini):
    assert fashioniq.PROTOCOLS[0] == "full"
    full, without, union = (fashioniq.load(str(mini), protocol=name)[0] for name in fashioniq.PROTOCOLS)
    assert without.protocol_id == "fashioniq/val/clip4cir/full-without-reference"
    assert union.protocol_id == "fashioniq/val/clip4cir/union"
    assert without.gallery.ids == full.gallery.ids
    assert union.gallery.ids == ["D03", "D11", "D12", "D13", "D14"]  # sorted
    assert [part.exclude_reference for part in (full, without, union)] == [False, True, True]
    assert without.evaluate(in_gallery_order(without))["recall@10"] == pytest.approx(200 / 3)
    assert union.evaluate(in_gallery_order(union))["recall@10"] == 100
    kept = in_gallery_order(full)
    assert full.evaluate(kept)["recall@50"] == 100
    refuses("'dress-00000' .*reference 'D14'", without.evaluate, kept)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clip4cir", [["Is darker and has long sleeves"], [" and is grey"], ["Is shorter and is red"]]),
        (
            "both-orders",
            [
                ["is Darker and has long sleeves", "has long sleeves and is Darker"],
                [" and is grey", "is grey and "],
                ["is shorter and is red", "is red and is shorter"],
            ],
        ),
        ("covr", [["is darker and has long sleeves,"], ["and is grey"], ["is shorter and is red"]]),
        ("plain", [["is Darker. and  has long sleeves, "], [" and is grey"], ["is shorter and is red"]]),
        ("separate", [["is Darker."], ["has long sleeves,"], ["is grey"], ["is shorter"], ["is red"]]),
    ],
)
def test_the_ways_to_join_two_captions(mini, text, expected):
    dress = fashioniq.load(str(mini), text=text)[0]
    assert dress.protocol_id == f"fashioniq/val/{text}/full"
    assert [[query.modification_text, *query.paraphrases] for query in dress.queries] == expected


def test_only_covr_cuts_long_texts():
    captions = [" ".join("abcdefghijklmnopqrstuvwxyz"), "one two three four five (six)"]
    cut = fashioniq._texts_of(captions, "covr")[""][0].split()
    assert cut[26:] == ["and", "one", "two", "three"]  # thirty words in all
    assert fashioniq._texts_of(captions, "plain")[""][0].endswith("(six)")


def test_separate_captions_are_queries_of_their_own(mini):
    dress = fashioniq.load(str(mini), text="separate", protocol="union")[0]
    ids = ["dress-00000-1", "dress-00000-2", "dress-00001-2", "dress-00002-1", "dress-00002-2"]  # 00001-1 is blank
    assert [query.id for query in dress.queries] == ids
    assert dress.relevance["dress-00000-1"] == dress.relevance["dress-00000-2"] == {"D12"}


def test_the_targets_of_test_are_not_public(mini):
    parts = fashioniq.load(str(mini), "test")
    assert not any(part.is_scored for part in parts)
    parts[0].check(in_gallery_order(parts[0]))
    refuses("fashioniq/test/clip4cir/full", parts[0].evaluate, in_gallery_order(parts[0]))
    refuses("union .*val", fashioniq.load, str(mini), "test", protocol="union")


def test_png_wins_over_jpg(mini):
    (mini / "images/D14.png").write_bytes(png(0, (10, 12)))  # beside D14.jpg
    (mini / "images/D14.txt").touch()
    assert fashioniq.load(str(mini))[0].gallery.image("D14").size == (10, 12)


def test_missing_and_damaged_data_are_named(mini):
    (mini / "images/S14.jpg").unlink()
    refuses(r"shirt val \(as .png or .jpg\): 1 of 15 .*S14", fashioniq.load, str(mini))
    fashioniq.load(str(mini), check_images=False)
    change(mini / "image_splits/split.toptee.val.json", lambda ids: [id_.replace("T12", "T99") for id_ in ids])
    refuses("'toptee-00000' .*'T12'", fashioniq.load, str(mini), check_images=False)
    captions = mini / "captions/cap.shirt.val.json"
    rows = json.loads(captions.read_text())
    for changed, message in (
        (rows[:2], "fashioniq shirt val in .* 2 annotations and 15 images and 4 images in the union"),
        ([rows[0], rows[1] | {"captions": ["is grey"]}, rows[2]], "cap.shirt.val.json, row 1, key 'captions': .*2"),
        (
            [*rows[:2], {k: v for k, v in rows[2].items() if k != "target"}],
            "cap.shirt.val.json, row 2, key 'target'",
        ),
    ):
        write(captions, changed)
        refuses(message, fashioniq.load, str(mini))
    captions.unlink()
    refuses("cap.shirt.val.json", fashioniq.load, str(mini))


def test_from_the_command_line(mini, run):
    record = measured(run, "fashioniq", mini, "--text", "both-orders")
    assert record["protocol_id"] == "fashioniq/val/both-orders/full"
    parts = record["results"][0]["parts"]
    assert list(parts) == list(fashioniq.PARTS)
    mean = sum(part["recall@10"] for part in parts.values()) / 3
    assert record["results"][0]["metrics"]["recall@10"] == pytest.approx(mean)


# --- real annotations ------------------------------------------------------------------------------------------------


def test_the_training_counts_are_official(data_root):
    refuses(r"\.png", next, fashioniq.training_triplets(str(data_root / "fashioniq")))


@pytest.mark.parametrize(
    ("protocol", "key"), [("full", "percent"), ("full-without-reference", "percent_reference_removed")]
)
def test_golden_values(data_root, protocol, key):
    dress = fashioniq.load(str(data_root / "fashioniq"), protocol=protocol, check_images=False)[0]
    expected = json.loads((data_root / "golden/fiq_val_dress_expected.json").read_text())["expected_exact"]["dress"]
    embeds = golden_embeds(data_root / "golden", "fiq_val_dress_")
    ranking = rank(dress.queries, dress.gallery, *embeds, 50, dress.exclude_reference)
    wanted = {f"recall@{k}": expected[key][str(k)] for k in (10, 50)}
    assert dress.evaluate(ranking) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    ("split", "protocol", "text", "counts"),
    [
        ("val", "full", "clip4cir", [(2017, 3817), (2038, 6346), (1961, 5373)]),
        # One caption of shirt is blank, two of toptee.
        ("val", "union", "separate", [(4034, 2628), (4075, 3089), (3920, 2902)]),
        ("test", "full", "clip4cir", [(2024, 3818), (2038, 6346), (2056, 5374)]),
    ],
)
def test_the_counts_are_official(data_root, split, protocol, text, counts):
    root = str(data_root / "fashioniq")
    parts = fashioniq.load(root, split, protocol=protocol, text=text, check_images=False)
    assert [(len(part.queries), len(part.gallery)) for part in parts] == counts
    for part in parts:
        assert all(query.reference_id in part.gallery.positions for query in part.queries)
