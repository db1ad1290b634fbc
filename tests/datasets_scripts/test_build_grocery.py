"""The grocery builder on a few classes: its files can be loaded, and every query has one class as its answer."""

import csv
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from contextcir.benchmarks import grocery
from contextcir.data.triplets import load_triplets
from datasets_scripts import build_grocery
from tests.whole_card import check_card

ROOT = Path(__file__).parents[2]
CIR_DATA_ROOT = os.environ.get("CIR_DATA_ROOT")
needs_real_data = pytest.mark.skipif(not CIR_DATA_ROOT, reason="CIR_DATA_ROOT is not set")
CLASSES = ["Granny-Smith", "Red-Delicious", "Royal-Gala", "Banana", "Leek", "Red-Bell-Pepper", "Green-Bell-Pepper"]
CLASSES += ["Bravo-Apple-Juice", "Bravo-Orange-Juice", "Tropicana-Apple-Juice", "Arla-Sour-Milk", "Arla-Sour-Cream"]
PHOTOS = {"train": 4, "val": 2, "test": 3}  # of each class


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Random photographs in the original's layout."""
    root, rng = tmp_path_factory.mktemp("dataset"), np.random.default_rng(0)
    with open(root / "classes.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Class Name (str)", "Class ID (int)"])
        writer.writerows([label, number] for number, label in enumerate(CLASSES))
    for split, count in PHOTOS.items():
        lines = []
        for number, label in enumerate(CLASSES):
            for photo in range(count):
                path = f"{split}/{label}/{label}_{photo:03d}.jpg"
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (58, 44, 3), dtype=np.uint8)).save(root / path)
                lines.append(f"{path}, {number}, 0")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("grocery")
    build_grocery.main(["--source", str(source), "--output", str(output), "--image_size", "29"])
    return output


@pytest.fixture(scope="module")
def groceries():
    return list(build_grocery.read_words().values())


def label_of(id_):
    return id_.split("/")[1]


@pytest.mark.parametrize("split, original", [("validation", "val"), ("test", "test")])
def test_the_benchmark(built, split, original):
    (benchmark,) = grocery.load(str(built), split)
    assert re.fullmatch(rf"grocery-[0-9a-f]{{8}}/{split}/reference-excluded", benchmark.protocol_id)
    assert len(benchmark.gallery) == len(benchmark.queries) == PHOTOS[original] * len(CLASSES)
    assert all(id_.startswith(f"{original}/") for id_ in benchmark.gallery.ids)
    for query in benchmark.queries:
        targets = benchmark.relevance[query.id]
        (target,) = {label_of(id_) for id_ in targets}
        assert targets == {id_ for id_ in benchmark.gallery.ids if label_of(id_) == target}
        assert target != label_of(query.reference_id)
        assert len(query.candidate_ids) == 6 and query.reference_id in query.candidate_ids
        labels = [label_of(id_) for id_ in query.ranked_candidate_ids]
        assert labels.count(target) == 1
        assert labels.count(label_of(query.reference_id)) == 1
    assert benchmark.gallery.image(benchmark.gallery.ids[0]).size == (22, 29)


def test_the_triplets(built):
    train = load_triplets(str(built / "triplets"), "train", require_noun_phrases=False)
    assert len(train) == 2 * PHOTOS["train"] * len(CLASSES)
    assert len(load_triplets(str(built / "triplets"), "validation", require_noun_phrases=False)) == 2 * len(CLASSES)
    for row in train:
        assert row["reference_id"].startswith("train/") and row["target_id"].startswith("train/")
        assert label_of(row["reference_id"]) != label_of(row["target_id"])


@pytest.mark.fault("E15", "cards of built data sets have what a complete Croissant record needs")
def test_the_card_is_complete(built):
    check_card(built)


def test_datasets_finds_the_configurations_by_the_card(built):
    assert len(load_dataset(str(built), "gallery", split="test")) == 3 * len(CLASSES)
    assert load_dataset(str(built), split="train").column_names[0] == "id"  # triplets are the default
    card = (built / "README.md").read_text()
    assert "license: mit" in card and "Marcus Klasson" in card and "test gallery: 36" in card


def test_same_arguments_same_data(source, built, tmp_path):
    build_grocery.main(["--source", str(source), "--output", str(tmp_path), "--image_size", "29"])
    for path in built.rglob("*.parquet"):
        assert path.read_bytes() == (tmp_path / path.relative_to(built)).read_bytes()


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} .*classes.csv"):
        build_grocery.main(["--source", str(tmp_path), "--output", str(tmp_path)])
    (tmp_path / "classes.csv").write_text("Class Name (str)\nLeek\nDurian\n")
    with pytest.raises(ValueError, match="grocery_words.csv .*Durian"):
        build_grocery.main(["--source", str(tmp_path), "--output", str(tmp_path)])
    (tmp_path / "classes.csv").write_text("Class Name (str)\nLeek\n")
    (tmp_path / "train.txt").write_text("a.jpg, 0, 0\nb.jpg, 7, 0\n")
    with pytest.raises(ValueError, match="train.txt, line 2: .*'b.jpg, 7, 0'"):
        build_grocery.main(["--source", str(tmp_path), "--output", str(tmp_path)])


def test_a_text_by_name_names_the_target_and_one_by_picture_does_not(groceries):
    rng = random.Random(0)
    seen = set()
    for old in groceries:
        for new in groceries:
            if old == new:
                continue
            text, (scope, means) = build_grocery.write_text(old, new, groceries, rng)
            seen.add((scope, means))
            assert "{" not in text and "  " not in text
            assert (new.name in text) == (means == "by name"), text
            assert (scope == "within") == (old.kind == new.kind)
    assert seen == {(scope, means) for scope in ("within", "across") for means in ("by name", "by picture")}


def test_a_text_by_picture_fits_one_class_only(groceries):
    """The class of the reference and the text determine the class of the target."""
    understood = {}
    for seed in range(40):
        rng = random.Random(seed)
        for old in groceries:
            new = rng.choice([g for g in groceries if g != old and g.section == old.section])
            text, (_, means) = build_grocery.write_text(old, new, groceries, rng)
            if means == "by picture":
                assert understood.setdefault((old.label, text), new.label) == new.label
    assert len(understood) > 80


def test_words(groceries):
    assert len({g.label for g in groceries}) == len({g.name for g in groceries}) == 81
    for grocery_ in groceries:
        vowel = grocery_.name[0].lower() in "aeiou"
        assert grocery_.article in ("an" if vowel else "a", "some", "a carton of"), grocery_.name


@needs_real_data
def test_the_real_photographs_keep_their_splits():
    source = Path(CIR_DATA_ROOT) / "grocery_store" / "dataset"
    groceries = build_grocery.read_groceries(source)
    photos = {split: build_grocery.read_photos(source, split, list(groceries)) for split in PHOTOS}
    assert {split: len(found) for split, found in photos.items()} == {"train": 2640, "val": 296, "test": 2485}
    assert len(set().union(*({photo.id for photo in found} for found in photos.values()))) == 2640 + 296 + 2485
    assert {photo.label for photo in photos["test"]} == set(groceries)
    assert all(photo.path.is_file() and photo.label in photo.id for found in photos.values() for photo in found)
    composed = build_grocery.compose(photos["test"], groceries, 1, "test", 0)
    shares = [sum(tag in row["tags"] for *_, row in composed) / len(composed) for tag in ("within", "by picture")]
    assert shares[0] > 0.4 and shares[1] > 0.2
    assert len({row["modification_text"] for *_, row in composed}) > 1000
