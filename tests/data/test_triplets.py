"""Triplets from every source, and the errors that name a row."""

import re

import datasets
import pytest

from contextcir.data.triplets import (
    TRIPLET_FEATURES,
    load_triplets,
    mix_triplets,
)
from tests.tiny_triplets import dataset, triplet, triplets, write_image_folder, write_parquet


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_a_folder_of_parquet_files(tmp_path):
    folder = write_parquet(tmp_path / "data", train=triplets(5), validation=triplets(2))
    loaded = load_triplets(folder)
    assert loaded.column_names == list(TRIPLET_FEATURES)
    assert loaded[3] == triplet(3)  # images as they were encoded
    assert len(load_triplets(folder, "validation")) == 2
    assert load_triplets(folder, "train[1:3]")["id"] == ["t1", "t2"]


def test_an_image_folder_with_two_file_name_columns(tmp_path):
    folder = write_image_folder(tmp_path / "images", noun_phrases=[])
    loaded = load_triplets(folder)
    assert loaded.column_names == list(TRIPLET_FEATURES)
    assert loaded["id"] == ["0", "1"]
    assert loaded["reference_id"] == loaded["target_id"][::-1] == ["one.png", "two.png"]
    assert loaded[0]["reference_image"]["path"].endswith("one.png")


def test_missing_noun_phrases_are_an_error_where_they_are_needed(tmp_path):
    folder = write_image_folder(tmp_path / "images")
    with pytest.raises(ValueError, match="no column noun_phrases; there are .*modification_text.*contextcir phrases"):
        load_triplets(folder)
    assert load_triplets(folder, require_noun_phrases=False)["noun_phrases"] == [[], []]


def test_missing_columns_are_named_and_so_are_those_that_exist(tmp_path):
    (tmp_path / "data").mkdir()
    dataset(triplets(2)).remove_columns(["target_image", "id"]).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(ValueError, match="no column id, target_image; there are reference_image, modification_text,"):
        load_triplets(str(tmp_path / "data"))


STRING, NUMBER = datasets.Value("string"), datasets.Value("int64")
SPAN = TRIPLET_FEATURES["noun_phrases"].feature


@pytest.mark.parametrize(
    "column, kind, value",
    [
        ("id", NUMBER, 3),
        ("target_id", NUMBER, 3),
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
    message = f"data (split 'train'): column {column} has type {kind}, expected {TRIPLET_FEATURES[column]}."
    with pytest.raises(ValueError, match=re.escape(message)):
        load_triplets(str(tmp_path / "data"))


def test_wider_types_and_columns_without_a_value_are_fine(tmp_path):
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
    with pytest.raises(ValueError, match="(?s)train-00000-of-00001.parquet is damaged .*Write or download it again"):
        load_triplets(folder)


def test_a_damaged_line_of_metadata_is_named(tmp_path):
    folder = write_image_folder(tmp_path / "images", noun_phrases=[])
    path = tmp_path / "images" / "metadata.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="metadata.jsonl, line 2 is damaged"):
        load_triplets(folder)


def test_an_image_folder_that_does_not_name_an_image(tmp_path):
    folder = write_image_folder(tmp_path / "images", noun_phrases=[])
    path = tmp_path / "images" / "metadata.jsonl"
    path.write_text(path.read_text().replace('"target_file_name": "one.png"', '"target_file_name": null'))
    with pytest.raises(ValueError, match="row 1: target_file_name is empty. Name an image or remove the row"):
        load_triplets(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"noun_phrases": [None]}, "row 2 (id 't2'): noun_phrases holds None, expected text, start and end of each"),
        (
            {"noun_phrases": [{"text": "it", "start": None, "end": 9}]},
            "row 2 (id 't2'): noun_phrases holds {'text': 'it', 'start': None, 'end': 9}, expected text, start",
        ),
        ({"id": "t0"}, "row 2 (id 't0'): the id stands in row 0 as well"),
        ({"modification_text": ""}, "row 2 (id 't2'): modification_text is empty"),
        ({"modification_text": " \n"}, "row 2 (id 't2'): modification_text is empty"),
        ({"modification_text": None, "noun_phrases": []}, "row 2 (id 't2'): modification_text is empty"),
        ({"target_id": ""}, "row 2 (id 't2'): target_id is empty"),
        (
            {"noun_phrases": [{"text": "it", "start": 7, "end": 99}]},
            "row 2 (id 't2'): noun_phrases holds the span 7 to 99, outside its text of 9 characters",
        ),
        ({"noun_phrases": [{"text": "", "start": 3, "end": 3}]}, "noun_phrases holds the span 3 to 3, outside"),
        (
            {"noun_phrases": [{"text": "it", "start": 6, "end": 8}]},
            "noun_phrases says 'it' for the span 6 to 8, where the text has ' i'",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path, changes, message):
    rows = triplets(4)
    rows[2] |= changes
    with pytest.raises(ValueError, match=re.escape(message)):
        load_triplets(write_parquet(tmp_path / "data", train=rows))


def test_data_sets_are_mixed_by_weight():
    parts = [dataset([triplet(row, id=f"{name}{row}") for row in range(8)]) for name in "abc"]
    mixed = mix_triplets(parts, [1, 2.5, 0.5], seed=3)
    ids = mixed["id"]
    assert ids[:8] == [f"a{row}" for row in range(8)] and ids[8:24] == [f"b{row}" for row in range(8)] * 2
    for part, drawn in ((ids[24:28], "b"), (ids[28:], "c")):
        assert len(part) == len(set(part)) == 4 and part == sorted(part) and {id_[0] for id_ in part} == {drawn}
    assert mix_triplets(parts, [1, 2.5, 0.5], seed=3)["id"] == ids != mix_triplets(parts, [1, 2.5, 0.5], seed=4)["id"]
    assert mix_triplets(parts[:1], [1]) is parts[0]
    for weight in (0, -1, 0.01):
        with pytest.raises(ValueError, match="leaves nothing of data set 1 with its 8 triplets"):
            mix_triplets(parts, [1, weight, 1])
