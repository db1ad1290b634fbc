"""FashionIQ in its official layout: three parts, three protocols, five ways to join two captions, golden values."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from contextcir.benchmarks import fashioniq
from contextcir.retrieval.base import Ranking
from contextcir.retrieval.index import search
from tests.measured import measured
from tests.tiny_triplets import png

needs_real_data = pytest.mark.skipif(
    "CIR_DATA_ROOT" not in os.environ, reason="CIR_DATA_ROOT is not set: no FashionIQ"
)
CAPTIONS = [["is Darker.", " has long sleeves, "], ["", "is grey"], ["is shorter", "is red"]]


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """Three pairs of captions over fifteen images for each part and split, in the official layout."""
    for part in fashioniq.PARTS:
        ids = [f"{part[0].upper()}{number:02d}" for number in range(14, -1, -1)]  # not in order, as the real ones
        rows = [
            {"target": ids[number + 2], "candidate": ids[number], "captions": CAPTIONS[number]} for number in range(3)
        ]
        rows[2]["target"] = ids[11]
        write(tmp_path / f"captions/cap.{part}.val.json", rows)
        for row in rows:
            del row["target"]
        write(tmp_path / f"captions/cap.{part}.test.json", rows)
        for split in fashioniq.SPLITS:
            write(tmp_path / f"image_splits/split.{part}.{split}.json", ids)
        for number, id_ in enumerate(ids):
            file = tmp_path / "images" / f"{id_}.{'png' if number % 2 else 'jpg'}"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(png(number))
    counts = {"annotations": 3, "images": 15}
    official = {("test", part): counts for part in fashioniq.PARTS}
    official |= {("val", part): {**counts, "images in the union": 5} for part in fashioniq.PARTS}
    monkeypatch.setattr(fashioniq, "OFFICIAL", official)
    return tmp_path


def test_training_triplets(mini, monkeypatch):
    for part in fashioniq.PARTS:
        captions = mini / f"captions/cap.{part}.val.json"
        captions.with_name(f"cap.{part}.train.json").write_text(captions.read_text())
    with pytest.raises(ValueError, match="dress train .* has 3 annotations, the official release 5,985 annotations"):
        next(fashioniq.training_triplets(str(mini)))
    monkeypatch.setattr(fashioniq, "TRAINING", {part: {"annotations": 3} for part in fashioniq.PARTS})
    rows = list(fashioniq.training_triplets(str(mini)))
    assert [row["id"] for row in rows[2:5]] == ["dress-00002", "shirt-00000", "shirt-00001"] and len(rows) == 9
    assert rows[0]["modification_text"] == "Is darker and has long sleeves"
    assert (rows[0]["reference_id"], rows[0]["target_id"]) == ("D14", "D12")
    assert rows[0]["reference_image"] == mini / "images/D14.jpg"
    assert len(list(fashioniq.training_triplets(str(mini), text="separate"))) == 15  # three captions are blank
    (mini / "images/S12.jpg").unlink()
    with pytest.raises(ValueError, match="fashioniq train .* 1 of 15 images are missing, such as .*S12.png"):
        next(fashioniq.training_triplets(str(mini)))


@needs_real_data
def test_training_counts_are_those_of_the_release():
    with pytest.raises(ValueError, match="images are missing"):  # which is looked at after the counts
        next(fashioniq.training_triplets(os.environ["CIR_DATA_ROOT"] + "/fashioniq"))


def ranked(benchmark) -> Ranking:
    """The gallery in its own order, the reference left out where the protocol wants it."""
    out = [query.reference_id if benchmark.exclude_reference else None for query in benchmark.queries]
    ranks = [[id_ for id_ in benchmark.gallery.ids if id_ != reference] for reference in out]
    return Ranking([query.id for query in benchmark.queries], ranks)


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
    # The third target stands at place 12 of 15, at 11 without the reference, and at 4 of the union of 5.
    assert dress.evaluate(ranked(dress)) == {"recall@10": pytest.approx(200 / 3), "recall@50": 100}


def test_the_protocols_differ_in_gallery_and_reference(mini):
    assert fashioniq.PROTOCOLS[0] == "full"
    full, without, union = (fashioniq.load(str(mini), protocol=name)[0] for name in fashioniq.PROTOCOLS)
    assert without.protocol_id == "fashioniq/val/clip4cir/full-without-reference"
    assert union.protocol_id == "fashioniq/val/clip4cir/union"
    assert without.gallery.ids == full.gallery.ids
    assert union.gallery.ids == ["D03", "D11", "D12", "D13", "D14"]  # in order, as there is none to keep
    assert [part.exclude_reference for part in (full, without, union)] == [False, True, True]
    assert without.evaluate(ranked(without))["recall@10"] == pytest.approx(200 / 3)
    assert union.evaluate(ranked(union))["recall@10"] == 100
    kept = ranked(full)
    assert full.evaluate(kept)["recall@50"] == 100
    with pytest.raises(ValueError, match="query 'dress-00000' holds its reference 'D14'"):
        without.evaluate(kept)


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


def test_long_texts_are_cut_for_covr_only():
    captions = [" ".join("abcdefghijklmnopqrstuvwxyz"), "one two three four five (six)"]
    cut = fashioniq.texts_of(captions, "covr")[""][0].split()
    assert cut[26:] == ["and", "one", "two", "three"]  # thirty words in all
    assert fashioniq.texts_of(captions, "plain")[""][0].endswith("(six)")


def test_separate_captions_are_queries_of_their_own(mini):
    dress = fashioniq.load(str(mini), text="separate", protocol="union")[0]
    ids = ["dress-00000-1", "dress-00000-2", "dress-00001-2", "dress-00002-1", "dress-00002-2"]  # 00001-1 is blank
    assert [query.id for query in dress.queries] == ids
    assert dress.relevance["dress-00000-1"] == dress.relevance["dress-00000-2"] == {"D12"}


def test_targets_of_test_are_not_public(mini):
    parts = fashioniq.load(str(mini), "test")
    assert not any(part.is_scored for part in parts)
    parts[0].check(ranked(parts[0]))
    with pytest.raises(ValueError, match="fashioniq/test/clip4cir/full: the targets are not public"):
        parts[0].evaluate(ranked(parts[0]))
    with pytest.raises(ValueError, match="union for val only"):
        fashioniq.load(str(mini), "test", protocol="union")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"split": "train"}, "val, test, got 'train'"),
        ({"protocol": "val"}, "full, full-without-reference, union, got 'val'"),
        ({"text": "searle"}, "clip4cir, both-orders, covr, plain, separate, got 'searle'"),
    ],
)
def test_unknown_choices_list_the_valid_ones(mini, choice, message):
    with pytest.raises(ValueError, match=message):
        fashioniq.load(str(mini), **choice)


def test_of_two_files_the_png_is_taken(mini):
    (mini / "images/D14.png").write_bytes(png(0, (10, 12)))  # beside D14.jpg
    (mini / "images/D14.txt").touch()
    dress = fashioniq.load(str(mini))[0]
    assert dress.gallery.image("D14").size == (10, 12)


def test_what_is_missing_or_damaged_is_named(mini):
    captions = mini / "captions/cap.shirt.val.json"
    (mini / "images/S14.jpg").unlink()
    with pytest.raises(ValueError, match=r"shirt val \(as .png or .jpg\): 1 of 15 images are missing, such as .*S14"):
        fashioniq.load(str(mini))
    fashioniq.load(str(mini), check_images=False)
    rows = json.loads(captions.read_text())
    write(captions, rows[:2])
    with pytest.raises(ValueError, match="fashioniq shirt val in .* has 2 annotations and 15 images and 4 images in"):
        fashioniq.load(str(mini))
    write(captions, [rows[0], {**rows[1], "captions": ["is grey"]}, rows[2]])
    with pytest.raises(ValueError, match="cap.shirt.val.json, row 1: there are 1 captions, expected 2"):
        fashioniq.load(str(mini))
    del rows[2]["target"]
    write(captions, rows)
    with pytest.raises(
        ValueError, match="cap.shirt.val.json, row 2: expected a list of objects with candidate, captions, tar"
    ):
        fashioniq.load(str(mini))
    captions.unlink()
    with pytest.raises(ValueError, match="cap.shirt.val.json is missing"):
        fashioniq.load(str(mini))


def test_a_gallery_without_a_target_is_refused(mini):
    splits = mini / "image_splits/split.toptee.val.json"
    ids = json.loads(splits.read_text())
    write(splits, ["T99" if id_ == "T12" else id_ for id_ in ids])
    with pytest.raises(ValueError, match="query 'toptee-00000' has the target 'T12', which is not in the gallery"):
        fashioniq.load(str(mini), check_images=False)


def test_from_the_command_line(mini, run):
    record = measured(run, "fashioniq", mini, "--text", "both-orders")
    assert record["protocol_id"] == "fashioniq/val/both-orders/full"
    parts = record["results"][0]["parts"]
    assert list(parts) == list(fashioniq.PARTS)
    mean = sum(part["recall@10"] for part in parts.values()) / 3
    assert record["results"][0]["metrics"]["recall@10"] == pytest.approx(mean)


# --- the real thing --------------------------------------------------------------------------------------------------


@needs_real_data
@pytest.mark.parametrize(
    ("protocol", "key"), [("full", "percent"), ("full-without-reference", "percent_reference_removed")]
)
def test_golden_values(protocol, key):
    root = Path(os.environ["CIR_DATA_ROOT"])
    dress = fashioniq.load(str(root / "fashioniq"), protocol=protocol, check_images=False)[0]
    expected = json.loads((root / "golden/fiq_val_dress_expected.json").read_text())["expected_exact"]["dress"]
    query_embeds, gallery_embeds = (
        torch.nn.functional.normalize(
            torch.from_numpy(np.load(root / f"golden/fiq_val_dress_{part}_features.npy")).float()
        )
        for part in ("query", "index")
    )
    positions = dress.gallery.positions
    references = torch.tensor([positions[query.reference_id] for query in dress.queries])
    exclude = references if dress.exclude_reference else None
    _, indices = search(query_embeds, gallery_embeds, 50, exclude=exclude, block_size=500)
    ranking = Ranking(
        [query.id for query in dress.queries],
        [[dress.gallery.ids[place] for place in row] for row in indices.tolist()],
    )
    wanted = {f"recall@{k}": expected[key][str(k)] for k in (10, 50)}
    assert dress.evaluate(ranking) == pytest.approx(wanted, abs=1e-9)


@needs_real_data
def test_the_official_counts():
    root = str(Path(os.environ["CIR_DATA_ROOT"]) / "fashioniq")
    counts = {
        (split, protocol, text): [
            (len(part.queries), len(part.gallery))
            for part in fashioniq.load(root, split, protocol=protocol, text=text, check_images=False)
        ]
        for split, protocol, text in [
            ("val", "full", "clip4cir"),
            ("val", "union", "separate"),
            ("test", "full", "clip4cir"),
        ]
    }
    assert list(counts.values()) == [
        [(2017, 3817), (2038, 6346), (1961, 5373)],
        [(4034, 2628), (4075, 3089), (3920, 2902)],  # one caption of shirt is blank, two of toptee
        [(2024, 3818), (2038, 6346), (2056, 5374)],
    ]


@needs_real_data
@pytest.mark.parametrize("split", fashioniq.SPLITS)
def test_every_reference_is_in_its_gallery(split):
    for part in fashioniq.load(str(Path(os.environ["CIR_DATA_ROOT"]) / "fashioniq"), split, check_images=False):
        assert all(query.reference_id in part.gallery.positions for query in part.queries)
