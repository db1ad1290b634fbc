"""Triplets from every source, the errors that name a row, and the batch that the collator makes."""

import copy
import json
import os
import pickle
import re
from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub import DatasetCard, DatasetCardData
from tiny_triplets import dataset, png, triplet, triplets, write_parquet

from contextcir.images import ImageError, load_image
from contextcir.triplets import (
    TRIPLET_FEATURES,
    TripletCollator,
    describe_triplets,
    find_bad_images,
    image_key,
    load_triplets,
    mix_triplets,
)
from modeling_contextcir import ContextCIRProcessor


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def processor(clip_folder):
    return ContextCIRProcessor.from_pretrained(clip_folder)


def undecoded(rows):
    for column in ("reference_image", "target_image"):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def test_a_folder_of_parquet_files(tmp_path):
    folder = write_parquet(tmp_path / "data", train=triplets(5), validation=triplets(2))
    loaded = load_triplets(folder)
    assert loaded.column_names == list(TRIPLET_FEATURES)
    assert loaded[3] == triplet(3)  # images as they were encoded
    assert len(load_triplets(folder, "validation")) == 2
    assert load_triplets(folder, "train[1:3]")["id"] == ["t1", "t2"]


def write_image_folder(folder, **metadata):
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.png").write_bytes(png(len(name)))
    rows = [
        {
            "reference_file_name": "one.png",
            "target_file_name": "two.png",
            "modification_text": "add a dog",
            **metadata,
        },
        {"reference_file_name": "two.png", "target_file_name": "one.png", "modification_text": "the dog", **metadata},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return str(folder)


def test_an_image_folder_with_two_file_name_columns(tmp_path):
    folder = write_image_folder(tmp_path / "images", noun_phrases=[])
    loaded = load_triplets(folder)
    assert loaded.column_names == list(TRIPLET_FEATURES)
    assert loaded["id"] == ["0", "1"]
    assert loaded["reference_id"] == loaded["target_id"][::-1] == ["one.png", "two.png"]
    assert loaded[0]["reference_image"]["path"].endswith("one.png")


def test_missing_noun_phrases_are_an_error_where_they_are_needed(tmp_path):
    folder = write_image_folder(tmp_path / "images")
    with pytest.raises(ValueError, match="no column noun_phrases; there are .*modification_text.*add_noun_phrases"):
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


def test_the_card_of_a_data_set(tmp_path):
    rows = [triplet(0), triplet(1), triplet(2, target_id="g1")]
    splits = {"train": describe_triplets(load_triplets(write_parquet(tmp_path / "data", train=rows)))}
    assert splits["train"] == {"triplets": 3, "targets": 2, "words": (9 + 9 + 2) / 3, "noun_phrases": 5 / 3}
    card = DatasetCard.from_template(
        DatasetCardData(license="mit", task_categories=["image-to-image"]),
        template_path=str(Path(__file__).parents[1] / "model_cards" / "triplets_template.md"),
        dataset_name="Animals",
        description="Animals and fruit.",
        splits=splits,
        source="made by hand",
        command="make animals",
    )
    assert card.data.license == "mit"
    for said in ("# Animals", "| train | 3 | 2 | 6.7 | 1.7 |\n\n| column", "Source: made by hand", "`make animals`"):
        assert said in card.text


BAD_IMAGES = {"empty": b"", "truncated": png(0)[:-60], "not an image": b"<html>404</html>"}


@pytest.mark.parametrize("content", BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_bad_images_abort_with_their_row_and_are_found_beforehand(content, processor):
    rows = triplets(4)
    rows[2]["target_image"]["bytes"] = content
    with pytest.raises(ImageError, match="triplet 't2', target_image"):
        TripletCollator(processor)(rows)
    (bad,) = find_bad_images(undecoded(dataset(rows)))
    assert (bad["row"], bad["id"], bad["column"]) == (2, "t2", "target_image")
    assert "triplet 't2'" in bad["error"]


@pytest.mark.parametrize("as_images", [False, True])
def test_files_that_change_are_looked_at_again(tmp_path, as_images):
    """Also a broken one of the same size and time: copying keeps both."""
    folder = tmp_path / "images"
    write_image_folder(folder, noun_phrases=[])
    if not as_images:  # a Parquet file of paths
        rows = [
            row | {"reference_image": f"{folder}/one.png", "target_image": f"{folder}/two.png"} for row in triplets(2)
        ]
        kinds = TRIPLET_FEATURES | dict.fromkeys(("reference_image", "target_image"), STRING)
        (tmp_path / "paths").mkdir()
        datasets.Dataset.from_list(rows, features=datasets.Features(kinds)).to_parquet(
            tmp_path / "paths" / "a.parquet"
        )

    def bad():
        loaded = load_triplets(str(folder if as_images else tmp_path / "paths"))
        return len(find_bad_images(loaded))

    path = folder / "two.png"
    content, before = path.read_bytes(), path.stat()
    assert bad() == 0
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert bad() == 2
    path.unlink()
    assert bad() == 2
    path.write_bytes(content)
    assert bad() == 0


def test_the_same_files_are_looked_at_once_and_by_each_version_of_the_code(tmp_path, monkeypatch):
    folder = write_image_folder(tmp_path / "images", noun_phrases=[])
    find_bad_images(load_triplets(folder))
    monkeypatch.setattr("contextcir.triplets.triplet_image", lambda *_: pytest.fail("read again"))
    assert find_bad_images(load_triplets(folder)) == []
    monkeypatch.setattr("PIL.__version__", "0")
    with pytest.raises(pytest.fail.Exception, match="read again"):
        find_bad_images(load_triplets(folder))


def test_a_missing_file_is_named(tmp_path, processor):
    folder = write_image_folder(tmp_path / "images", noun_phrases=[])
    (tmp_path / "images" / "two.png").unlink()
    loaded = load_triplets(folder)
    assert [(bad["row"], bad["column"]) for bad in find_bad_images(loaded)] == [
        (0, "target_image"),
        (1, "reference_image"),
    ]
    with pytest.raises(ImageError, match="triplet '0', target_image .*two.png"):
        TripletCollator(processor)([loaded[0]])


def test_the_batch(processor):
    batch = TripletCollator(processor)(triplets(3))
    assert next(iter(batch)) == "input_ids"
    assert batch["pixel_values"].shape == (6, 3, 30, 30)
    assert batch["reference_index"].tolist() == [0, 1, 2] and batch["target_index"].tolist() == [3, 4, 5]
    assert not torch.equal(batch["pixel_values"][:3], batch["pixel_values"][3:])
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["phrase_sample"].tolist() == [0, 0, 1, 1, 1]
    assert batch["phrase_token_mask"].shape == (5, batch["input_ids"].shape[1])
    assert batch["num_truncated_texts"] == 0 and batch["num_dropped_phrases"] == 0
    # Each in-context mask covers the tokens of the phrase itself, begin and end left out.
    for phrase in range(5):
        row = batch["input_ids"][batch["phrase_sample"][phrase]]
        isolated = batch["phrase_input_ids"][phrase][batch["phrase_attention_mask"][phrase].bool()][1:-1]
        assert torch.equal(row[batch["phrase_token_mask"][phrase]], isolated)


def test_reference_and_target_are_not_mixed_up(processor):
    rows = triplets(2)
    batch = TripletCollator(processor)(rows)
    for name in ("reference", "target"):
        expected = processor(images=[load_image(row[f"{name}_image"]) for row in rows])["pixel_values"]
        assert torch.equal(batch["pixel_values"][batch[f"{name}_index"]], expected)


def test_an_image_of_several_rows_is_encoded_once(processor):
    rows = triplets(3)
    rows[1] |= {name: rows[0][name] for name in ("reference_id", "reference_image")}
    rows[2] |= {f"reference_{name}": rows[0][f"target_{name}"] for name in ("id", "image")}
    batch = TripletCollator(processor, augmentation="crop")(rows)
    assert batch["pixel_values"].shape[0] == 4
    assert batch["reference_index"].tolist() == [0, 0, 1] and batch["target_index"].tolist() == [1, 2, 3]


def test_two_images_with_one_id_are_refused(processor):
    rows = triplets(3)
    rows[2]["target_id"] = rows[0]["reference_id"]
    with pytest.raises(ValueError, match="'t0' and 't2' show different images under one id, 'r0'"):
        TripletCollator(processor)(rows)


def test_two_files_with_one_id_are_refused(tmp_path, processor):
    for name in "abc":
        (tmp_path / name).write_bytes(png(ord(name)))
    files = [{"bytes": None, "path": str(tmp_path / name)} for name in "abc"]
    rows = [triplet(row, reference_id="r", reference_image=files[0], target_image=files[1 + row]) for row in range(2)]
    assert TripletCollator(processor)(rows)["pixel_values"].shape[0] == 3
    rows[1]["reference_image"] = files[1]
    with pytest.raises(ValueError, match="'t0' and 't1' show different images under one id, 'r'"):
        TripletCollator(processor)(rows)


def test_keys_are_stable_and_equal_only_for_equal_ids(processor):
    rows = triplets(3)
    target = {name: rows[0][f"target_{name}"] for name in ("id", "image")}
    rows[2] |= {f"target_{name}": value for name, value in target.items()}
    rows[1] |= {f"reference_{name}": value for name, value in target.items()}
    batch = TripletCollator(processor)(rows)
    assert batch["target_keys"][0] == batch["target_keys"][2] == batch["reference_keys"][1]
    assert len(set(batch["target_keys"].tolist() + batch["reference_keys"].tolist())) == 4
    assert image_key("dev-1042-0-img1") == 2947337083654050779  # the same in every process and session
    assert 0 <= image_key("漢字") < 2**63


def test_max_phrases_takes_the_first_ones_and_none_is_possible(processor):
    assert TripletCollator(processor, max_phrases=1)(triplets(3))["phrase_sample"].tolist() == [0, 1]
    batch = TripletCollator(processor, max_phrases=0)(triplets(3))
    assert not [name for name in batch if name.startswith("phrase_")] and batch["num_truncated_texts"] == 0


def test_long_texts_are_counted(processor):
    rows = [triplet(0, modification_text="the dog " + "x y " * 60 + "the cat"), triplet(1)]
    batch = TripletCollator(processor)(rows)
    assert batch["input_ids"].shape[1] == 77
    assert batch["num_truncated_texts"] == 1 and batch["num_dropped_phrases"] == 1


def test_augmentation_depends_on_seed_epoch_and_image_alone(processor):
    def pixels(rows, seed=1, epoch=0):
        collator = TripletCollator(processor, augmentation="crop", seed=seed)
        collator.set_epoch(epoch)
        return collator(rows)["pixel_values"]

    rows = triplets(4)
    assert torch.equal(pixels(rows), pixels(rows))
    assert torch.equal(pixels(rows)[2], pixels(rows[2:])[0])  # whatever the batch
    assert torch.equal(pixels(rows), pixels([row | {"id": f"other {row['id']}"} for row in rows]))
    assert not torch.equal(pixels(rows), pixels(rows, epoch=1))
    assert not torch.equal(pixels(rows), pixels(rows, seed=2))
    assert not torch.equal(pixels(rows)[0], pixels([rows[0] | {"reference_id": "other"}])[0])
    plain = TripletCollator(processor, augmentation="crop").for_evaluation()(rows)["pixel_values"]
    assert torch.equal(plain, TripletCollator(processor)(rows)["pixel_values"])
    assert (plain - pixels(rows)).abs().amax(dim=(1, 2, 3)).min() > 0


def test_a_new_epoch_reaches_workers_that_live_on(processor):
    collator = TripletCollator(processor, augmentation="crop")
    loader = torch.utils.data.DataLoader(
        triplets(2), batch_size=2, collate_fn=collator, num_workers=1, persistent_workers=True
    )
    first, again = next(iter(loader)), next(iter(loader))
    collator.set_epoch(1)
    second = next(iter(loader))
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert not torch.equal(first["pixel_values"], second["pixel_values"])


def test_unknown_augmentation_is_refused(processor):
    with pytest.raises(ValueError, match="'flip'"):
        TripletCollator(processor, augmentation="flip")


def test_the_collator_can_be_copied(processor):
    collator = copy.deepcopy(TripletCollator(processor, max_phrases=3, augmentation="crop", seed=5))
    assert (collator.max_phrases, collator.augmentation, collator.seed) == (3, "crop", 5)
    pickle.dumps(collator)
