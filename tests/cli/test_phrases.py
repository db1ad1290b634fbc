"""The noun-phrase column: each text parsed once, cached, written in place with the images inside."""

import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard

from contextcir.cli import phrases
from contextcir.data import source_card
from contextcir.data.triplets import TRIPLET_FEATURES, load_triplets
from tests.loopback_hub import LoopbackHub
from tests.tiny_triplets import FirstWordExtractor, dataset, triplet, triplets, write_parquet

PHRASES = [sys.executable, "-m", "contextcir.cli.main", "phrases"]


@pytest.fixture
def fake(monkeypatch):
    extractor = FirstWordExtractor()
    monkeypatch.setattr("contextcir.phrases.extractor.NounPhraseExtractor", lambda *_, **__: extractor)
    return extractor


def test_in_place_with_images_inside(fake, tmp_path):
    folder = tmp_path / "data"
    for row in (old := triplets(8)):
        del row["noun_phrases"]
    features = {name: kind for name, kind in TRIPLET_FEATURES.items() if name != "noun_phrases"}
    folder.mkdir()
    without = datasets.Dataset.from_list(old, features=datasets.Features(features))
    without.select(range(4)).to_parquet(folder / "train-00000-of-00002.parquet")
    without.select(range(4, 7)).to_parquet(folder / "train-00001-of-00002.parquet")
    without.select([7]).to_parquet(folder / "validation-00000-of-00001.parquet")

    counts = phrases.main([str(folder)])
    assert {split: count["rows"] for split, count in counts.items()} == {"train": 7, "validation": 1}
    assert sorted(path.name for path in folder.iterdir()) == [
        "train-00000-of-00001.parquet",
        "validation-00000-of-00001.parquet",
    ]
    new = load_triplets(str(folder))
    assert [row["id"] for row in new] == [f"t{i}" for i in range(7)]
    assert [row["reference_image"]["bytes"] for row in new] == [row["reference_image"]["bytes"] for row in old[:7]]
    assert new[0]["noun_phrases"] == [{"text": "make", "start": 0, "end": 4}]
    published = datasets.load_dataset(str(folder), split="validation")
    assert published.features == TRIPLET_FEATURES and published[0]["target_image"].size == (34, 30)


def test_an_image_folder_becomes_parquet_elsewhere(fake, tmp_path):
    source = tmp_path / "images"
    (source / "train").mkdir(parents=True)
    row = triplet(0)
    for name in ("reference", "target"):
        (source / "train" / f"{name}.png").write_bytes(row[f"{name}_image"]["bytes"])
    line = '{"reference_file_name": "reference.png", "target_file_name": "target.png", "modification_text": "a b c"}\n'
    (source / "train" / "metadata.jsonl").write_text(line)
    phrases.main([str(source), "--output_dir", str(tmp_path / "out")])
    for path in (source / "train").iterdir():
        path.unlink()
    (read,) = load_triplets(str(tmp_path / "out"))
    assert read["reference_image"]["bytes"] == row["reference_image"]["bytes"]
    assert read["noun_phrases"] == [{"text": "a", "start": 0, "end": 1}]


def without_phrases(rows):
    return dataset(rows).remove_columns("noun_phrases")


LAYOUTS = {  # as people have them -> what is left
    "data/train-00000-of-00002.parquet data/train-00001-of-00002.parquet": "data/train-00000-of-00001.parquet",
    "train/0000.parquet": "train/0000.parquet",
    "train.parquet": "train.parquet",
    "data-00000.parquet": "data-00000.parquet",
}


@pytest.mark.parametrize("paths, left", LAYOUTS.items(), ids=LAYOUTS)
@pytest.mark.parametrize("say_so", [False, True])
def test_in_place_whatever_the_layout(fake, tmp_path, paths, left, say_so):
    for number, path in enumerate(paths.split()):
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        without_phrases(triplets(8)[4 * number : 4 * number + 4]).to_parquet(tmp_path / "data" / path)
    folder = str(tmp_path / "data")
    phrases.main([folder, *(["--output_dir", folder] if say_so else [])])
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert [path.relative_to(folder).as_posix() for path in files] == [left]
    assert load_triplets(folder)["id"] == [f"t{row}" for row in range(4 * len(paths.split()))]
    assert load_triplets(folder)[0]["noun_phrases"] == [{"text": "make", "start": 0, "end": 4}]


CARD = """---
dataset_info:
  features:
{}configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
"""
COLUMN = "  - name: {}\n    dtype: {}\n"
COLUMNS = [(name, "image" if name.endswith("_image") else "string") for name in TRIPLET_FEATURES]


def test_a_card_that_would_forbid_the_column_is_found_beforehand(fake, tmp_path):
    (tmp_path / "clone" / "data").mkdir(parents=True)
    without_phrases(triplets(2)).to_parquet(tmp_path / "clone" / "data" / "train-00000-of-00001.parquet")
    columns = "".join(COLUMN.format(*column) for column in COLUMNS if column[0] != "noun_phrases")
    (tmp_path / "clone" / "README.md").write_text(CARD.format(columns))
    with pytest.raises(ValueError, match="clone cannot be changed in place: .*README.md.*--output_dir"):
        phrases.main([str(tmp_path / "clone")])
    assert not fake.texts
    phrases.main([str(tmp_path / "clone"), "--output_dir", str(tmp_path / "out")])
    assert len(load_triplets(str(tmp_path / "out"))) == 2


def test_an_image_folder_is_not_changed(fake, tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("reference", "target"):
        (tmp_path / "images" / f"{name}.png").write_bytes(triplet(0)[f"{name}_image"]["bytes"])
    line = '{"reference_file_name": "reference.png", "target_file_name": "target.png", "modification_text": "a b c"}'
    (tmp_path / "images" / "metadata.jsonl").write_text(line)
    with pytest.raises(ValueError, match="images cannot be changed in place: .*no Parquet file.*--output_dir"):
        phrases.main([str(tmp_path / "images")])
    assert len(list((tmp_path / "images").iterdir())) == 3


@pytest.mark.slow
def test_published_with_images_and_phrases(tmp_path):
    folder = write_parquet(tmp_path / "data", train=triplets(3))
    with LoopbackHub() as hub:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "contextcir.cli.main",
                "phrases",
                folder,
                "--push_to_hub",
                "tester/with-phrases",
                "--max_phrases",
                "1",
            ],
            env=os.environ | hub.environment(tmp_path / "cache"),
            check=True,
        )
        (content,) = (
            c for name, c in hub.files("dataset", "tester/with-phrases").items() if name.endswith(".parquet")
        )
    (tmp_path / "read").mkdir()
    (tmp_path / "read" / "train.parquet").write_bytes(content)
    read = load_triplets(str(tmp_path / "read"))
    assert len(read) == 3 and read[0]["reference_image"]["bytes"] == triplets(1)[0]["reference_image"]["bytes"]
    assert [len(phrases) for phrases in read["noun_phrases"]] == [1, 1, 0]


def test_where_to_write_must_be_said():
    with pytest.raises(ValueError, match="some/hub-name.*--output_dir or --push_to_hub"):
        phrases.PhraseArguments("some/hub-name")


def test_missing_columns_are_named(fake, tmp_path):
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict({"id": ["a"], "caption": ["b"]}).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(ValueError, match="no column .*modification_text.*there are id, caption"):
        phrases.main([str(tmp_path / "data")])


SOURCE_CARD = """---
license: cc-by-4.0
language: [en, fr]
tags: [fashion]
configs: [{config_name: default, data_files: [{split: train, path: "*.parquet"}]}]
---

# Hats

Photographs of hats, with thanks to everybody.
"""


@pytest.mark.fault("P04", "a data set with phrases keeps its source's licence, tags and text, and names the parser")
def test_the_card_carries_on_the_source(fake, tmp_path):
    folder = tmp_path / "hats"
    folder.mkdir()
    without_phrases(triplets(2)).to_parquet(folder / "train.parquet")
    (folder / "README.md").write_text(
        SOURCE_CARD.replace("dataset_info: {features: [{name: id, dtype: string}]}\n", "")
    )
    phrases.main([str(folder), "--output_dir", str(tmp_path / "out")])
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert (card.data.license, card.data.language) == ("cc-by-4.0", ["en", "fr"])
    assert card.data.tags == ["fashion", "composed-image-retrieval"]
    assert "found by the rule first word." in card.text and "with thanks to everybody" in card.text
    assert "triplets of `hats`" in card.text and str(tmp_path) not in card.content
    assert len(load_triplets(str(tmp_path / "out"))) == 2
    assert (folder / "README.md").read_text().startswith("---\nlicense: cc-by-4.0")


def test_a_source_without_a_card(fake, tmp_path):
    folder = write_parquet(tmp_path / "data", train=triplets(2))
    phrases.main([folder, "--output_dir", str(tmp_path / "out")])
    assert DatasetCard.load(tmp_path / "out" / "README.md").data.license == "other"


@pytest.mark.fault("P04", "a published data set with phrases keeps its other configurations")
def test_other_configurations_stay(fake, tmp_path, monkeypatch):
    pushed = {}

    def upload(folder, name, **options):
        pushed[name] = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.*")), options
        pushed["card"] = DatasetCard.load(Path(folder, "README.md"))

    other = {"config_name": "gallery", "data_files": [{"split": "train", "path": "gallery/*.parquet"}]}
    there = DatasetCard(f"---\nconfigs: {[other, {'config_name': 'default', 'data_files': 'x'}]}\n---\n")
    monkeypatch.setattr("contextcir.data.hub.upload_dataset", upload)
    read = source_card.read_card
    monkeypatch.setattr(source_card, "read_card", lambda name: there if name == "me/new" else read(name))
    phrases.main([write_parquet(tmp_path / "data", train=triplets(2)), "--push_to_hub", "me/new"])
    files, options = pushed["me/new"]
    assert files == ["README.md", "data/train-00000.parquet"] and options == {"replace": ("data/*.parquet",)}
    found = {config["config_name"]: config["data_files"] for config in pushed["card"].data.configs}
    assert found == {
        "gallery": other["data_files"],
        "default": [{"split": "train", "path": "data/train-*.parquet"}],
    }
