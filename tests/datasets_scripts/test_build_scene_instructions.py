"""Triplets from unlabelled pictures of scenes: what is drawn, what is asked, and what comes out."""

import json
import re
import sqlite3
from collections import Counter

import pytest

from contextcir.data.triplets import load_triplets
from contextcir.scenes.truth import Truth
from datasets_scripts import build_scene_instructions, build_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    numbers = {"num_train": 4, "num_validation": 24, "num_test": 24, "gallery_size": 120, "image_size": 64}
    build_scenes.main(["--output", str(folder), *words(numbers)])
    return folder


def words(options):
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def build(folder, scenes, **options):
    options = {"output": folder, "scenes": scenes, "num_pairs": 24, "num_pictures": 20} | options
    return build_scene_instructions.main(words(options))


def shown(folder):
    return [picture.scene for picture in Truth.from_folder(folder / "pictures").pictures]


@pytest.fixture(scope="module")
def built(tmp_path_factory, scenes):
    folder = tmp_path_factory.mktemp("built")
    assert build(folder, scenes) == 0
    return folder


def test_the_triplets_are_ready_to_train_on(built):
    triplets = load_triplets(str(built / "triplets"), "train", require_noun_phrases=True)
    assert 0 < len(triplets) <= 24
    assert all(len(text.split()) <= 12 for text in triplets["modification_text"])
    for ids in zip(triplets["reference_id"], triplets["target_id"], strict=True):
        groups = {re.fullmatch(r"(\d{6})/\1-\d\.jpg", id_)[1] for id_ in ids}
        assert len(groups) == 1 and len(set(ids)) == 2  # of one family, and not the same picture


def test_pairs_may_share_no_more_than_the_background(tmp_path, scenes):
    assert build(tmp_path, scenes, group="background", num_pairs=8) == 0
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").open()]
    sides = [[row[f"{side}_id"].split("/") for side in ("reference", "target")] for row in rows]
    assert all(reference[0] == target[0] for reference, target in sides)
    assert any(reference[1][:6] != target[1][:6] for reference, target in sides)


def test_a_picture_is_captioned_once_and_the_same_command_asks_nothing_again(built, scenes):
    def requests():
        with sqlite3.connect(built / "ledger.sqlite") as ledger:
            return sorted(ledger.execute("SELECT role, COUNT(*) FROM requests GROUP BY role"))

    before, counts = requests(), Counter()
    for row in map(json.loads, (built / "pairs.jsonl").open()):
        counts.update((row["reference_id"], row["target_id"]))
    assert dict(before)["image_caption"] == len(counts) < counts.total()
    triplets = (built / "triplets" / "train-00000.parquet").read_bytes()
    assert build(built, scenes) == 0
    assert requests() == before
    assert (built / "triplets" / "train-00000.parquet").read_bytes() == triplets


def test_no_scene_of_the_benchmark_is_drawn(tmp_path, scenes, built, monkeypatch):
    of_benchmark = build_scene_instructions.scenes_of_benchmark(str(scenes))
    assert len(of_benchmark) > 100 and not of_benchmark & set(shown(built))
    taken = shown(built)[0]
    monkeypatch.setattr(build_scene_instructions, "scenes_of_benchmark", lambda folder: {taken})
    args = build_scene_instructions.Arguments(output=str(tmp_path), num_pictures=20)
    build_scene_instructions.draw_pictures(args, tmp_path / "pictures")
    assert taken not in shown(tmp_path)


def test_pictures_are_those_that_were_asked_for(built, tmp_path, scenes):
    before = (built / "pictures" / "truth.jsonl").read_bytes()
    for other in ({"group": "background"}, {"seed": 7}, {"image_size": 48}, {"num_pictures": 60}):
        ((name, value),) = other.items()
        with pytest.raises(ValueError, match=f"were drawn with {name} .*, got {value}. Choose another --output"):
            build(built, scenes, **other)
    assert (built / "pictures" / "truth.jsonl").read_bytes() == before
    stray = tmp_path / "pictures" / "other" / "1.jpg"
    stray.parent.mkdir(parents=True)
    stray.touch()  # as an interrupted run leaves it
    build_scene_instructions.draw_pictures(
        build_scene_instructions.Arguments(output=str(tmp_path), num_pictures=8, scenes=str(scenes)),
        tmp_path / "pictures",
    )
    assert not stray.exists() and len(shown(tmp_path)) >= 8


def test_what_cannot_be_is_said(tmp_path, scenes):
    with pytest.raises(ValueError, match="num_pairs must be at least 1, got 0"):
        build(tmp_path, scenes, num_pairs=0)
