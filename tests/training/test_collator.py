"""Batches of triplets."""

import copy
import pickle

import pytest
import torch
from PIL import Image

from contextcir.data.images import load_image
from contextcir.training.collator import TripletCollator, image_key
from tests.tiny_triplets import png, triplet, triplets


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
    # Each in-context mask covers the tokens of its phrase, without begin and end.
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
    with pytest.raises(ValueError, match="'t0'.*'t2'.*'r0'"):
        TripletCollator(processor)(rows)


def test_two_files_with_one_id_are_refused(tmp_path, processor):
    for name in "abc":
        (tmp_path / name).write_bytes(png(ord(name)))
    files = [{"bytes": None, "path": str(tmp_path / name)} for name in "abc"]
    rows = [triplet(row, reference_id="r", reference_image=files[0], target_image=files[1 + row]) for row in range(2)]
    assert TripletCollator(processor)(rows)["pixel_values"].shape[0] == 3
    rows[1]["reference_image"] = files[1]
    with pytest.raises(ValueError, match="'t0'.*'t1'.*'r'"):
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


def test_phrases_that_name_nothing_are_left_out_before_they_are_counted(processor):
    text = "the target photo shows a pair of dogs and the other one"
    names = ["the target photo", "a pair of dogs", "a pair", "dogs", "the other one"]
    spans = [(text.index(name), text.index(name) + len(name)) for name in names]
    phrases = [{"text": name, "start": start, "end": end} for name, (start, end) in zip(names, spans, strict=True)]
    rows = [triplet(0, modification_text=text, noun_phrases=phrases)]

    def read(**options):
        ids = TripletCollator(processor, **options)(rows)["phrase_input_ids"]
        return [" ".join(found.split()) for found in processor.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    assert len(read(concepts_only=False)) == 5
    assert len(read()) == 2 and read() == read(max_phrases=2) == read(concepts_only=False)[1::2][:2]
    assert len(read(max_phrases=1)) == 1


def test_what_is_no_span_of_the_text_is_refused_by_the_processor(processor):
    for phrase in ({"text": "it", "start": 5, "end": 99}, (7, 3), "it"):
        with pytest.raises(ValueError, match="Row 0"):
            TripletCollator(processor)([triplet(0, noun_phrases=[phrase])])


def test_max_phrases_takes_the_first_phrases_or_none(processor):
    assert TripletCollator(processor, max_phrases=1)(triplets(3))["phrase_sample"].tolist() == [0, 1]
    batch = TripletCollator(processor, max_phrases=0)(triplets(3))
    assert not [name for name in batch if name.startswith("phrase_")] and batch["num_truncated_texts"] == 0


def test_long_texts_are_counted(processor):
    rows = [triplet(0, modification_text="the dog " + "x y " * 60 + "the cat"), triplet(1)]
    batch = TripletCollator(processor)(rows)
    assert batch["input_ids"].shape[1] == 77
    assert batch["num_truncated_texts"] == 1 and batch["num_dropped_phrases"] == 1


def test_augmentation_depends_on_seed_epoch_and_image_only(processor):
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


def test_a_new_epoch_reaches_persistent_workers(processor):
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


@pytest.mark.parametrize("fit, warned", [("crop", 1), ("padding", 0)])
@pytest.mark.fault("F16", "training says once how many of its images lose their sides to the crop, whoever reads them")
def test_wide_images_are_counted(build, caplog, fit, warned):
    rows = triplets(8)
    for row in rows[:2]:
        row["target_image"] = Image.new("RGB", (61, 30))
    trainer = build(rows=rows, model_options={"image_fit": fit}, dataloader_num_workers=1)
    trainer.train()
    said = [record.getMessage() for record in caplog.records if "2:1" in record.getMessage()]
    assert len(said) == warned
    wide, read = trainer.data_collator._read.tolist()
    assert wide == 2 and read > 8
    assert not said or int(said[0].split()[0]) in (1, 2)


@pytest.mark.fault("F17", "images that are encoded once are counted too, where they are read")
def test_wide_images_that_are_encoded_once_are_counted(build, caplog):
    rows = triplets(8)
    rows[0]["target_image"] = Image.new("RGB", (30, 61), "red")
    build(rows=rows, encode_images_once=True, freeze_vision=True)
    assert "1 of " in caplog.text and "2:1" in caplog.text


def test_the_collator_can_be_copied(processor):
    collator = copy.deepcopy(TripletCollator(processor, max_phrases=3, augmentation="crop", seed=5))
    assert (collator.max_phrases, collator.augmentation, collator.seed) == (3, "crop", 5)
    pickle.dumps(collator)
