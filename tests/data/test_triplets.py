"""Triplets are loaded from every source and checked, mixed, and given noun phrases."""

import json
import os
import re
import unicodedata
from pathlib import Path

import datasets
import pytest

from contextcir.data.images import ImageError
from contextcir.data.triplet_images import find_bad_images
from contextcir.data.triplets import (
    IMAGE_COLUMNS,
    TRIPLET_FEATURES,
    add_noun_phrases,
    embedded_rows,
    load_triplets,
    mix_triplets,
)
from tests.tiny_triplets import (
    FirstWordExtractor,
    dataset,
    triplet,
    triplets,
    write_image_folder,
    write_parquet,
)


def test_a_folder_of_parquet_files(tmp_path):
    folder = write_parquet(tmp_path / "data", train=triplets(5), validation=triplets(2))
    loaded = load_triplets(folder)
    assert loaded.column_names == list(TRIPLET_FEATURES)
    assert loaded[3] == triplet(3)  # images are still encoded
    assert len(load_triplets(folder, "validation")) == 2
    assert load_triplets(folder, "train[1:3]")["id"] == ["t1", "t2"]


def test_an_image_folder_with_two_file_name_columns(tmp_path):
    folder = write_image_folder(tmp_path / "images", noun_phrases=[])
    loaded = load_triplets(folder)
    assert loaded.column_names == list(TRIPLET_FEATURES)
    assert loaded["id"] == ["0", "1"]
    assert loaded["reference_id"] == loaded["target_id"][::-1] == ["one.png", "two.png"]
    assert loaded[0]["reference_image"]["path"].endswith("one.png")


@pytest.mark.fault("F24", "an image folder may hold pipes, and names in another Unicode form than its metadata")
@pytest.mark.timeout(60)
def test_an_image_folder_as_people_have_it(tmp_path):
    folder = Path(write_image_folder(tmp_path / "images", noun_phrases=[]))
    nfc, nfd = (unicodedata.normalize(form, "caf\u00e9.png") for form in ("NFC", "NFD"))
    (folder / "one.png").rename(folder / nfd)
    os.mkfifo(folder / "pipe.png")
    (folder / "x.jpg").mkdir()
    fixed = {"target_file_name": "two.png", "modification_text": "x"}
    rows = [{"reference_file_name": name, **fixed} for name in (nfc, nfd)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = load_triplets(str(folder), require_noun_phrases=False)
    assert set(loaded["reference_id"]) == {nfd}  # one image, as it is on disk
    assert not find_bad_images(loaded)


def test_missing_noun_phrases_are_an_error_unless_they_are_optional(tmp_path):
    folder = write_image_folder(tmp_path / "images")
    with pytest.raises(
        ValueError, match=r"images \(split 'train'\): .* noun_phrases; .*modification_text.*`contextcir phrases`"
    ):
        load_triplets(folder)
    assert load_triplets(folder, require_noun_phrases=False)["noun_phrases"] == [[], []]


def test_missing_and_existing_columns_are_named(tmp_path):
    (tmp_path / "data").mkdir()
    dataset(triplets(2)).remove_columns(["target_image", "id"]).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(ValueError, match=" id, target_image; .*reference_image, modification_text,"):
        load_triplets(str(tmp_path / "data"))


STRING, NUMBER = datasets.Value("string"), datasets.Value("int64")
SPAN = TRIPLET_FEATURES["noun_phrases"].feature


@pytest.mark.parametrize(
    "column, kind, value",
    [
        ("id", datasets.Value("float64"), 3.5),
        ("target_id", datasets.List(NUMBER), [3]),
        ("modification_text", NUMBER, 3),
        ("modification_text", datasets.List(STRING), ["a dog"]),
        ("reference_image", NUMBER, 3),
        ("reference_image", datasets.List(NUMBER), [3]),
        ("noun_phrases", datasets.List(STRING), ["a dog"]),
        ("noun_phrases", datasets.List(datasets.List(NUMBER)), [[0, 5]]),
        ("noun_phrases", datasets.List({"text": STRING}), [{"text": "a dog"}]),
        ("noun_phrases", datasets.List(SPAN | {"end": datasets.Value("float64")}), [{**dict.fromkeys(SPAN, 0)}]),
        ("noun_phrases", {name: datasets.List(kind) for name, kind in SPAN.items()}, {name: [] for name in SPAN}),
    ],
    ids=str,
)
def test_columns_of_another_type_are_named(tmp_path, column, kind, value):
    features = datasets.Features(TRIPLET_FEATURES | {column: kind})
    (tmp_path / "data").mkdir()
    rows = datasets.Dataset.from_list([row | {column: value} for row in triplets(3)], features=features)
    rows.to_parquet(tmp_path / "data" / "train.parquet")
    types = f"{re.escape(str(kind))},.*{re.escape(str(TRIPLET_FEATURES[column]))}"
    with pytest.raises(ValueError, match=rf"data \(split 'train'\): .*\b{column} .*{types}"):
        load_triplets(str(tmp_path / "data"))


def test_wider_types_and_columns_of_nulls_are_valid(tmp_path):
    kinds = {"id": datasets.Value("large_string"), "noun_phrases": datasets.LargeList(SPAN | {"end": NUMBER})}
    kinds |= {"reference_image": {"bytes": datasets.Value("large_binary"), "path": STRING}}
    for number, changed in enumerate((kinds, {"noun_phrases": datasets.Value("null")}, {"target_image": STRING})):
        rows = triplets(2)
        for row in rows:
            row |= {"noun_phrases": None} if number == 1 else {"target_image": "a.png"} if number == 2 else {}
        folder = tmp_path / str(number)
        folder.mkdir()
        written = datasets.Dataset.from_list(rows, features=datasets.Features(TRIPLET_FEATURES | changed))
        written.to_parquet(folder / "train.parquet")
        assert load_triplets(str(folder))["id"] == ["t0", "t1"]


def cut(content):
    return content[: len(content) // 2]


def with_a_hole(content):
    return content[:50] + bytes(3000) + content[3050:]


@pytest.mark.parametrize("damage", [cut, with_a_hole, lambda content: b""], ids=["cut", "hole", "empty"])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    folder = write_parquet(tmp_path / "data", train=triplets(5), validation=triplets(2))
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="train-00000-of-00001.parquet "):
        load_triplets(folder)


def test_a_damaged_line_of_metadata_is_named(tmp_path):
    folder = write_image_folder(tmp_path / "images", noun_phrases=[])
    path = tmp_path / "images" / "metadata.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="metadata.jsonl, line 2 "):
        load_triplets(folder)


def test_an_image_folder_without_a_file_name(tmp_path):
    folder = write_image_folder(tmp_path / "images", noun_phrases=[])
    path = tmp_path / "images" / "metadata.jsonl"
    path.write_text(path.read_text().replace('"target_file_name": "one.png"', '"target_file_name": null'))
    with pytest.raises(ValueError, match="row 1: target_file_name "):
        load_triplets(folder)


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"noun_phrases": [None]}, "noun_phrases .*None"),
        ({"noun_phrases": [{"text": "it", "start": None, "end": 9}]}, "noun_phrases .*'it', 'start': None, 'end': 9"),
        ({"noun_phrases": [{"text": "it", "start": 7, "end": 99}]}, "noun_phrases .*7 .*99,.* 9 "),
        ({"noun_phrases": [{"text": "", "start": 3, "end": 3}]}, "noun_phrases .*3 .*3,.* 9 "),
        ({"noun_phrases": [{"text": "it", "start": 6, "end": 8}]}, "noun_phrases .*'it' .*6 .*8,.*' i'"),
        ({"id": "t0"}, "row 0 "),
        ({"id": ""}, "id "),
        ({"modification_text": ""}, "modification_text "),
        ({"modification_text": " \n"}, "modification_text "),
        ({"modification_text": None, "noun_phrases": []}, "modification_text "),
        ({"target_id": ""}, "target_id "),
    ],
)
def test_invalid_rows_are_named(tmp_path, changes, named):
    rows = triplets(4)
    rows[2] |= changes
    with pytest.raises(ValueError, match=rf"row 2 \(id '{rows[2]['id']}'\): {named}"):
        load_triplets(write_parquet(tmp_path / "data", train=rows))


def test_mixing_repeats_and_samples_by_weight():
    parts = [dataset([triplet(row, id=f"{name}{row}") for row in range(8)]) for name in "abc"]
    mixed = mix_triplets(parts, [1, 2.5, 0.5], seed=3)
    ids = mixed["id"]
    assert ids[:8] == [f"a{row}" for row in range(8)] and ids[8:24] == [f"b{row}" for row in range(8)] * 2
    for part, name in ((ids[24:28], "b"), (ids[28:], "c")):
        assert len(part) == len(set(part)) == 4 and part == sorted(part) and {id_[0] for id_ in part} == {name}
    assert mix_triplets(parts, [1, 2.5, 0.5], seed=3)["id"] == ids != mix_triplets(parts, [1, 2.5, 0.5], seed=4)["id"]
    assert mix_triplets(parts[:1], [1]) is parts[0]
    for weight in (0, -1, 0.01):
        with pytest.raises(ValueError, match=rf"{weight} .*\b1 .* 8 "):
            mix_triplets(parts, [1, weight, 1])


def test_noun_phrases_fill_the_column_and_are_counted():
    extractor = FirstWordExtractor()
    filled, counts = add_noun_phrases(dataset(triplets(12)), extractor, batch_size=5)  # six texts, twice
    assert filled.features["noun_phrases"] == TRIPLET_FEATURES["noun_phrases"]
    assert filled.column_names == list(TRIPLET_FEATURES)
    assert filled["noun_phrases"][0] == [{"text": "make", "start": 0, "end": 4}]
    assert filled["noun_phrases"][2] == []  # "remove it"
    assert counts == {"rows": 12, "distinct_texts": 6, "noun_phrases": 8, "without_noun_phrase": 4}
    assert len(extractor.texts) == len(set(extractor.texts)) == 6  # each text once, in whichever batches it is


@pytest.mark.parametrize("old", [None, datasets.Value("string"), TRIPLET_FEATURES["noun_phrases"]], ids=str)
def test_noun_phrases_replace_an_older_column(old):
    rows = dataset(triplets(3)).remove_columns("noun_phrases")
    if old is not None:
        rows = rows.add_column("noun_phrases", [None] * 3, feature=old)
    filled, _ = add_noun_phrases(rows.add_column("other", [1, 2, 3]), FirstWordExtractor())
    assert filled.features == {**TRIPLET_FEATURES, "other": datasets.Value("int64")}
    assert filled["other"][:] == [1, 2, 3]
    assert [len(phrases) for phrases in filled["noun_phrases"]] == [1, 1, 0]


def test_noun_phrases_are_cached_until_the_fingerprint_changes(tmp_path):
    data = load_triplets(write_parquet(tmp_path / "data", train=triplets(6)))
    for fingerprint, count in (("a", 6), ("a", 0), ("b", 6)):
        extractor = FirstWordExtractor(fingerprint)
        filled, _ = add_noun_phrases(data, extractor)
        assert len(extractor.texts) == count
        assert len(filled["noun_phrases"][0]) == 1


@pytest.mark.parametrize("decode", [True, False])
def test_embedded_rows_keep_stored_images(decode):
    rows = dataset(triplets(3))
    for column in IMAGE_COLUMNS:
        rows = rows.cast_column(column, datasets.Image(decode=decode))
    assert list(embedded_rows(rows)) == triplets(3)


def test_embedded_rows_read_the_files_of_an_image_folder(tmp_path):
    loaded = load_triplets(write_image_folder(tmp_path / "images", noun_phrases=[]))
    one, two = ({"bytes": (tmp_path / "images" / name).read_bytes(), "path": name} for name in ("one.png", "two.png"))
    found = list(embedded_rows(loaded))
    assert [(row["id"], row["reference_image"], row["target_image"]) for row in found] == [
        ("0", one, two),
        ("1", two, one),
    ]
    assert found[0].keys() == TRIPLET_FEATURES.keys()


def test_embedded_rows_name_the_triplet_of_a_missing_image(tmp_path):
    loaded = load_triplets(write_image_folder(tmp_path / "images", noun_phrases=[]))
    (tmp_path / "images" / "two.png").unlink()
    with pytest.raises(ImageError, match="'0', target_image: .*two.png"):
        list(embedded_rows(loaded))
    with pytest.raises(ImageError, match="'t1', reference_image: "):
        list(embedded_rows(dataset([triplet(0), triplet(1, reference_image=None)])))
