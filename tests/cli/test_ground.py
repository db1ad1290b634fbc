"""`contextcir ground`: a column of maps, written in place or elsewhere, that training reads."""

from pathlib import Path

import datasets
import pytest
from PIL import Image

from contextcir.cli import ground, phrases, train
from contextcir.cli.main import main
from contextcir.data.source_card import read_card
from contextcir.data.triplets import MAPS_FIT, PHRASE_MAPS, TRIPLET_FEATURES, load_triplets
from contextcir.visualization import given_maps_figure as figure
from tests.tiny_triplets import FirstWordExtractor, triplets, write_parquet

QUICK = ["--steps", "3", "--batch_size", "4", "--device", "cpu"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path):
    return write_parquet(tmp_path / "source", train=triplets(9), validation=triplets(3))


def test_in_place_and_trained_on(source, clip_folder, tmp_path, capsys):
    found = ground.main([source, "--clip_name_or_path", clip_folder, *QUICK])
    assert found["train"]["noun_phrases"] == sum(len(row["noun_phrases"]) for row in triplets(9))
    assert 0 < found["train"]["mean_trust"] <= 1 and 0 < found["by_chance"] < 1
    assert '"found_in_batch"' in capsys.readouterr().out
    for split, count in (("train", 9), ("validation", 3)):
        rows = load_triplets(source, split, columns=None)
        assert rows.column_names == [*TRIPLET_FEATURES, PHRASE_MAPS, MAPS_FIT] and len(rows) == count
        for row, given in zip(rows, triplets(count), strict=True):
            assert row["reference_image"]["bytes"] == given["reference_image"]["bytes"]
            assert [len(one) for one in row[PHRASE_MAPS]] == [25] * len(given["noun_phrases"])
    first = load_triplets(source, columns=None)
    wrong = [[[9.0]] * len(maps) for maps in first[PHRASE_MAPS]]
    spoiled = first.remove_columns(PHRASE_MAPS).add_column(PHRASE_MAPS, wrong)
    spoiled.to_parquet(f"{source}/train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"phrase_maps already \(train, validation\).*--output_dir.*--replace_maps"):
        ground.main([source, "--clip_name_or_path", clip_folder, *QUICK])
    again = ground.main([source, "--clip_name_or_path", clip_folder, *QUICK, "--replace_maps"])
    assert again == found and load_triplets(source, columns=None)[PHRASE_MAPS][:] == first[PHRASE_MAPS][:]

    options = ["--data", source, "--clip_name_or_path", clip_folder, "--grounding_weight", "1", "--use_cpu", "true"]
    options += [
        "--max_steps",
        "1",
        "--per_device_train_batch_size",
        "4",
        "--report_to",
        "none",
        "--logging_steps",
        "1",
    ]
    train.main([*options, "--output_dir", str(tmp_path / "run")])
    assert '"loss_grounding"' in (tmp_path / "run" / "training.json").read_text()
    streamed = ["--streaming", "true", "--output_dir", str(tmp_path / "streamed")]
    train.main([*options, *streamed])
    assert '"loss_grounding"' in (tmp_path / "streamed" / "training.json").read_text()
    for how in ([], ["--streaming", "true"]):  # the same patches, at other places of the image
        with pytest.raises(ValueError, match="'t.'.*image_fit='crop', the model has 'padding'.*--image_fit padding"):
            train.main([*options, *how, "--image_fit", "padding", "--output_dir", str(tmp_path / "other")])


def test_encoded_once_the_maps_are_the_same(source, clip_folder, tmp_path):
    options = [source, "--clip_name_or_path", clip_folder, *QUICK]
    ground.main([*options, "--output_dir", str(tmp_path / "plain")])
    ground.main([*options, "--output_dir", str(tmp_path / "once"), "--encode_images_once", "true"])
    maps = [
        load_triplets(str(tmp_path / name), columns=[PHRASE_MAPS])[PHRASE_MAPS][0][0] for name in ("plain", "once")
    ]
    assert maps[0] == pytest.approx(maps[1], rel=1e-4)


def test_a_new_folder_has_a_card(source, clip_folder, tmp_path):
    before = load_triplets(source, columns=None)[:]
    ground.main([source, "--clip_name_or_path", clip_folder, "--output_dir", str(tmp_path / "new"), *QUICK])
    assert load_triplets(source, columns=None)[:] == before
    text = read_card(str(tmp_path / "new")).text
    assert "`phrase_maps`" in text and "3 batches of 4 triplets, seed 0" in text and str(tmp_path) not in text


def test_a_picture_of_some_maps(source, clip_folder, tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(
        "contextcir.visualization.given_maps_figure", lambda shown: drawn.extend(shown) or figure(shown)
    )
    picture = tmp_path / "to" / "maps.png"
    options = [source, "--clip_name_or_path", clip_folder, *QUICK, "--picture", str(picture)]
    ground.main([*options, "--picture_triplets", "3"])
    rows = load_triplets(source, columns=[PHRASE_MAPS])
    with_phrases = [row for row in rows if row["noun_phrases"]]
    middle = with_phrases[round((len(with_phrases) - 1) / 2)]
    assert [one.text for one in drawn[::2]] == [with_phrases[place]["modification_text"] for place in (0, -1)]
    assert drawn[1].phrases == [phrase["text"] for phrase in middle["noun_phrases"]]
    assert [one.shape for one in drawn[1].maps] == [(5, 5)] * len(middle["noun_phrases"])
    assert [one.ravel().tolist() for one in drawn[1].maps] == [pytest.approx(m, rel=1e-4) for m in middle[PHRASE_MAPS]]
    with Image.open(picture) as image:
        assert image.format == "PNG"
    assert main(["ground", *options, "--replace_maps", "--picture_triplets", "0"]) == 1
    assert "picture_triplets must be at least 1, got 0" in capsys.readouterr().err


def test_new_phrases_leave_no_old_maps(source, clip_folder, monkeypatch, capsys):
    monkeypatch.setattr("contextcir.phrases.extractor.NounPhraseExtractor", lambda *_, **__: FirstWordExtractor())
    ground.main([source, "--clip_name_or_path", clip_folder, *QUICK])
    phrases.main([source])
    assert load_triplets(source, columns=None).column_names == list(TRIPLET_FEATURES)
    assert "train: phrase_maps are left out" in capsys.readouterr().err
    ground.main([source, "--clip_name_or_path", clip_folder, *QUICK])
    phrases.main([source])  # the same phrases
    assert PHRASE_MAPS in load_triplets(source, columns=None).column_names
    assert "phrase_maps" not in capsys.readouterr().err


def test_maps_of_your_own_mix_with_those_of_the_command(source, clip_folder, tmp_path):
    ground.main([source, "--clip_name_or_path", clip_folder, *QUICK])
    rows = triplets(4)
    own = Path(write_parquet(tmp_path / "own", train=[row | {"id": f"own {row['id']}"} for row in rows]))
    table = datasets.Dataset.from_parquet(str(own / "train-00000-of-00001.parquet"))
    maps = [[[1 / 25] * 25 for _ in row["noun_phrases"]] for row in rows]  # float64, as Python writes it
    table.add_column(PHRASE_MAPS, maps).to_parquet(own / "train-00000-of-00001.parquet")
    options = ["--data", source, str(own), "--clip_name_or_path", clip_folder, "--grounding_weight", "1"]
    options += ["--max_steps", "2", "--per_device_train_batch_size", "4", "--report_to", "none", "--use_cpu", "true"]
    train.main([*options, "--output_dir", str(tmp_path / "run")])
    mixed = ["--streaming", "true", "--data_weights", "1", "1", "--output_dir", str(tmp_path / "streamed")]
    train.main([*options, *mixed])
    texts = datasets.Dataset.from_parquet(str(own / "train-00000-of-00001.parquet")).remove_columns(PHRASE_MAPS)
    texts.add_column(PHRASE_MAPS, ["here"] * 4).to_parquet(own / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="column phrase_maps has type.*string.*expected"):
        load_triplets(str(own), columns=[PHRASE_MAPS])


def test_what_is_missing_is_said(source, clip_folder, tmp_path, capsys):
    clip = ["--clip_name_or_path", clip_folder]
    for argv, message in (
        ([str(tmp_path / "none"), *clip], "There is no folder"),
        ([source, *clip, "--train_split", "test", *QUICK], "has the splits train, validation, not 'test'"),
        ([source, *clip, "--device", "cpu"], "9 triplets do not fill a batch of 64"),
    ):
        assert main(["ground", *argv]) == 1 and message in capsys.readouterr().err
    options = ["--data", source, *clip, "--grounding_weight", "1", "--output_dir", str(tmp_path / "run")]
    assert main(["train", *options, "--use_cpu", "true", "--report_to", "none"]) == 1
    assert "no column phrase_maps" in capsys.readouterr().err
