"""Triplets from unlabelled pictures of scenes: the pictures, the requests, and the triplets."""

import json
import re
import sqlite3
from collections import Counter

import pytest

from contextcir.cli.options import as_flags
from contextcir.data.triplets import load_triplets
from contextcir.scenes.truth import Truth
from datasets_scripts import build_scene_instructions

FEW = {"num_pairs": 12, "num_pictures": 12}


def build(folder, scenes, **options):
    return build_scene_instructions.main(as_flags({"output": folder, "scenes": scenes} | FEW | options))


def draw(folder, scenes, **options):
    """Draw pictures, without captions."""
    args = build_scene_instructions.Arguments(**{"output": str(folder), "scenes": str(scenes)} | FEW | options)
    build_scene_instructions.draw_pictures(args, folder / "pictures")


def shown(folder):
    return [picture.scene for picture in Truth.from_folder(folder / "pictures").pictures]


@pytest.fixture(scope="module")
def built(tmp_path_factory, scenes):
    folder = tmp_path_factory.mktemp("built")
    assert build(folder, scenes) == 0
    return folder


@pytest.mark.slow
def test_the_triplets_are_ready_to_train_on(built):
    triplets = load_triplets(str(built / "triplets"), "train", require_noun_phrases=True)
    assert 0 < len(triplets) <= FEW["num_pairs"]
    assert all(len(text.split()) <= 12 for text in triplets["modification_text"])
    for ids in zip(triplets["reference_id"], triplets["target_id"], strict=True):
        groups = {re.fullmatch(r"(\d{6})/\1-\d\.jpg", id_)[1] for id_ in ids}
        assert len(groups) == 1 and len(set(ids)) == 2  # of one family, and not the same picture


@pytest.mark.slow
def test_pairs_within_a_background(tmp_path, scenes):
    assert build(tmp_path, scenes, group="background", num_pictures=24) == 0
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").open()]
    sides = [[row[f"{side}_id"].split("/") for side in ("reference", "target")] for row in rows]
    assert all(reference[0] == target[0] for reference, target in sides)
    assert any(reference[1][:6] != target[1][:6] for reference, target in sides)


@pytest.mark.slow
def test_each_picture_is_captioned_once_and_the_same_command_sends_nothing_again(built, scenes):
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


def test_scenes_of_the_benchmark_are_not_drawn(tmp_path, scenes, monkeypatch):
    excluded = build_scene_instructions.benchmark_scenes(str(scenes))
    draw(tmp_path / "first", scenes)
    assert len(excluded) > 100 and not excluded & set(shown(tmp_path / "first"))
    taken = shown(tmp_path / "first")[0]
    monkeypatch.setattr(build_scene_instructions, "benchmark_scenes", lambda folder: {taken})
    draw(tmp_path / "second", scenes)
    assert taken not in shown(tmp_path / "second")


def test_pictures_with_other_arguments_are_refused(tmp_path, scenes):
    draw(tmp_path, scenes)
    before = (tmp_path / "pictures" / "truth.jsonl").read_bytes()
    draw(tmp_path, scenes)
    for other in ({"group": "background"}, {"seed": 7}, {"image_size": 48}, {"num_pictures": 60}):
        ((name, value),) = other.items()
        with pytest.raises(ValueError, match=f"{tmp_path}.* {name} .*got {value}"):
            draw(tmp_path, scenes, **other)
    assert (tmp_path / "pictures" / "truth.jsonl").read_bytes() == before


def test_pictures_of_an_interrupted_build_are_removed(tmp_path, scenes):
    stray = tmp_path / "pictures" / "other" / "1.jpg"
    stray.parent.mkdir(parents=True)
    stray.touch()
    draw(tmp_path, scenes)
    assert not stray.exists() and len(shown(tmp_path)) >= FEW["num_pictures"]


def test_no_pairs_are_refused(tmp_path, scenes):
    with pytest.raises(ValueError, match="num_pairs .*got 0"):
        build(tmp_path, scenes, num_pairs=0)
