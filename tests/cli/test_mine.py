"""`contextcir mine`: a data set that holds all that it names, and that is trained on as it is."""

import json
import shutil

import datasets
import pytest

from contextcir.cli import mine, phrases, train
from contextcir.cli.main import main
from contextcir.data.negatives import NEGATIVE_IDS, NegativeImages, load_negatives
from contextcir.data.source_card import read_card
from contextcir.data.triplets import TRIPLET_FEATURES, load_triplets
from tests.tiny_triplets import FirstWordExtractor, mined_negatives, triplets, write_mined, write_parquet


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    write_parquet(folder, train=triplets(9), validation=triplets(2))
    for path in folder.glob("*.parquet"):
        rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
        rows.add_column("category", [f"c{row % 2}" for row in range(len(rows))]).to_parquet(path)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n\n# Hats\n")
    return folder


LOOSE = ["--max_above", "2", "--near_duplicate", "2", "--number", "3"]


@pytest.fixture
def mined(source, run, tmp_path):
    record = mine.main(["--model", str(run), "--data", str(source), "--output", str(tmp_path / "mined"), *LOOSE])
    return tmp_path / "mined", record


def test_the_mined_data_set_is_a_copy_with_ids_and_images(mined, source):
    folder, record = mined
    rows = load_triplets(str(folder), columns=None)
    assert rows.column_names == [*TRIPLET_FEATURES, "category", NEGATIVE_IDS]
    plain = load_triplets(str(source), columns=["category"])
    assert rows.remove_columns([NEGATIVE_IDS])[:] == plain[:]
    images = NegativeImages(load_negatives([str(folder)]))
    shown = {row[f"{side}_id"]: row[f"{side}_image"]["bytes"] for row in plain for side in ("reference", "target")}
    for row in rows:
        assert len(row[NEGATIVE_IDS]) == 3 and not {row["target_id"], row["reference_id"]} & set(row[NEGATIVE_IDS])
        assert all(images[id_]["bytes"] == shown[id_] for id_ in row[NEGATIVE_IDS])
    assert len(images.places) == record["found"]["images"] == len({id_ for ids in rows[NEGATIVE_IDS] for id_ in ids})
    others = load_triplets(str(folder), "validation", columns=[NEGATIVE_IDS])
    assert len(others) == 2 and others[NEGATIVE_IDS][:] == [[], []]
    published = datasets.load_dataset(str(folder), split="train", cache_dir=str(folder / "cache"))
    assert published[0]["target_image"].size == (34, 30)


def test_record_and_card_say_what_was_done(mined, run):
    folder, record = mined
    assert json.loads((folder / "mining.json").read_text()) == record
    assert record["command"].startswith("contextcir mine --model ") and len(record["model"]["weights"]) == 32
    assert record["found"]["negatives"] == 27 and record["bounds"]["number"] == 3 and record["gallery_size"] == 18
    card = read_card(str(folder))
    assert card.data.license == "cc-by-4.0" and "# Hats" in card.text
    assert record["model"]["weights"] in card.text and "27 negatives of 9 triplets" in card.text
    assert {one["config_name"] for one in card.data.configs} == {"triplets", "negatives"}


def test_a_gallery_is_searched(source, run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for row in triplets(20)[9:]:
        (photos / f"{row['id']}.png").write_bytes(row["target_image"]["bytes"])
    shutil.copy(photos / "t9.png", photos / "copy.png")
    assert main(["index", str(photos), "--model", str(run), "--output", str(tmp_path / "gallery")]) == 0
    argv = ["--data", str(source), "--gallery", str(tmp_path / "gallery"), "--output", str(tmp_path / "mined")]
    record = mine.main([*argv, *LOOSE])  # the model is the gallery's
    shutil.rmtree(photos)
    images = NegativeImages(load_negatives([str(tmp_path / "mined")]))
    assert record["gallery_size"] == 12 and set(images.places) <= {
        "copy.png",
        *(f"t{row}.png" for row in range(9, 20)),
    }
    assert images[next(iter(images.places))]["bytes"]


def test_it_is_trained_on_as_it_is(mined, run, tmp_path):
    argv = ["--model_name_or_path", str(run), "--data", str(mined[0]), "--hard_negatives", "2", "--cc_weight", "0"]
    argv += (
        "--max_steps 1 --per_device_train_batch_size 4 --report_to none --save_strategy no --batch_by category".split()
    )
    train.main([*argv, "--output_dir", str(tmp_path / "trained"), "--use_cpu", "--eval_split", "validation"])
    record = json.loads((tmp_path / "trained" / "training.json").read_text())
    assert record["arguments"]["hard_negatives"] == 2 and record["arguments"]["batch_by"] == "category"


def test_mining_again_replaces_what_was_mined(mined, run, tmp_path):
    folder, _ = mined
    other = tmp_path / "again"
    mine.main(["--model", str(run), "--data", str(folder), "--output", str(other), *LOOSE, "--ranks", "9", "18"])
    one, two = (load_triplets(str(path), columns=None) for path in (folder, other))
    assert one.column_names == two.column_names and one[NEGATIVE_IDS][:] != two[NEGATIVE_IDS][:]
    mine.main(["--model", str(run), "--data", str(folder), "--output", str(folder), *LOOSE, "--ranks", "9", "18"])
    assert load_triplets(str(folder), columns=None)[NEGATIVE_IDS][:] == two[NEGATIVE_IDS][:]
    assert not list(tmp_path.glob(".*.unfinished"))


def test_what_cannot_be_done_is_said(source, run, tmp_path, capsys):
    def fails(*argv):
        code = main(["mine", "--data", str(source), *argv])
        return code, capsys.readouterr().err

    out = ["--output", str(tmp_path / "out")]
    assert fails(*out)[0] == 2  # no model
    code, said = fails("--model", str(run), *out, "--split", "test")
    assert code == 1 and "train, validation" in said and "'test'" in said
    code, said = fails("--model", str(run), "--output", str(source))
    assert code == 1 and "would be lost" in said
    code, said = fails("--model", str(run), *out, "--ranks", "3")
    assert code == 1 and "--ranks 3" in said
    code, said = fails("--model", str(run), *out, "--near_duplicate", "0")
    assert code == 1 and "near_duplicate" in said and not (tmp_path / "out").exists()


def test_negatives_that_are_not_there_are_said(source, tmp_path):
    with pytest.raises(ValueError, match="negative_ids.*contextcir mine"):
        load_triplets(str(source), columns=[NEGATIVE_IDS])
    with pytest.raises(ValueError, match="'negatives'.*contextcir mine"):
        load_negatives([str(source)])


def test_negatives_of_several_data_sets_are_one(tmp_path):
    rows = [row | {NEGATIVE_IDS: ["n0"]} for row in triplets(2)]
    names = [write_mined(tmp_path / name, mined_negatives(size), train=rows) for name, size in (("a", 2), ("b", 3))]
    assert load_negatives(names)["id"][:] == ["n0", "n1", "n2"]


@pytest.mark.fault("N01", "finding noun phrases keeps all other columns of triplets, such as a category or mined ids")
def test_phrases_keep_other_columns(mined, monkeypatch):
    monkeypatch.setattr("contextcir.phrases.extractor.NounPhraseExtractor", lambda *_, **__: FirstWordExtractor())
    folder, _ = mined
    before = load_triplets(str(folder), columns=None)[:]
    phrases.main([str(folder)])
    after = load_triplets(str(folder), columns=None)[:]
    assert after.pop("noun_phrases") != before.pop("noun_phrases") and after == before
    assert len(load_negatives([str(folder)])) > 0
