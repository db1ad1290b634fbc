"""Pairs of pictures with known differences, as files."""

import hashlib
import json

import pytest

from contextcir.cli.options import as_flags
from contextcir.scenes.differences import edits_between
from contextcir.scenes.truth import Truth
from datasets_scripts import build_scene_pairs


def build(folder, **options):
    build_scene_pairs.main(as_flags({"output": folder, "num_pairs": 12} | options))
    return folder


def digests(root):
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root): hashlib.sha256(path.read_bytes()).digest() for path in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("pairs"))


def test_the_truth_has_every_picture_of_every_pair(built):
    pairs = json.loads((built / "pairs.json").read_text())
    truth = Truth.from_folder(built)
    queries = [row for row in map(json.loads, (built / "truth.jsonl").open()) if "query" in row]
    assert len(pairs) == len(queries) == 12 and len(truth.pictures) == 24
    counts = set()
    for pair, row in zip(pairs, queries, strict=True):
        assert pair.keys() == {"reference_image", "target_image"}
        reference, target = (truth.find(built / pair[side]) for side in ("reference_image", "target_image"))
        assert (reference.name, target.name) == (pair["reference_image"], pair["target_image"])
        counts.add(len(edits_between(reference.scene, target.scene)))
        query = truth.find_query(row["text"], reference.scene)
        assert (query.reference, query.target) == (reference.scene, target.scene)
    assert min(counts) >= 1 and max(counts) <= 5 and len(counts) > 2


def test_pictures_are_grouped_by_their_background(built):
    for picture in Truth.from_folder(built).pictures:
        assert picture.name.split("/")[:2] == ["images", picture.scene.background]
    assert len(list((built / "images").iterdir())) > 3


def test_same_arguments_same_files(built, tmp_path):
    assert digests(build(tmp_path / "again")) == digests(built)
    assert digests(build(tmp_path / "other", seed=1)) != digests(built)


def test_no_pairs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_pairs .*got 0"):
        build(tmp_path, num_pairs=0)


def test_a_folder_with_pictures_is_refused(tmp_path):
    build(tmp_path, num_pairs=2)
    with pytest.raises(ValueError, match=str(tmp_path / "images")):
        build(tmp_path, num_pairs=1, seed=1)
