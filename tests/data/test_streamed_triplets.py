"""Streamed triplets are those that are loaded, from Parquet and WebDataset files."""

import io
import json
import tarfile

import datasets
import pytest

from contextcir.data.streamed_triplets import mix_streams, stream_triplets
from contextcir.data.triplets import MAPS_FEATURE, PHRASE_MAPS, TRIPLET_FEATURES, load_triplets
from tests.tiny_triplets import triplet, triplets, write_image_folder, write_parquet


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


def write_archives(folder, rows, archives=2, leave_out=(), facts=("modification_text", "noun_phrases"), image="png"):
    """Write triplets as WebDataset archives, whose keys are their ids."""
    folder.mkdir()
    for number in range(archives):
        with tarfile.open(folder / f"train-{number:05d}.tar", "w") as archive:
            for row in rows[number::archives]:
                files = {f"{side}.{image}": row[f"{side}_image"]["bytes"] for side in ("reference", "target")}
                files["json"] = json.dumps({name: row[name] for name in facts}).encode()
                for name, content in files.items():
                    if name not in leave_out:
                        entry = tarfile.TarInfo(f"{row['id']}.{name}")
                        entry.size = len(content)
                        archive.addfile(entry, io.BytesIO(content))
    return str(folder)


def test_streamed_rows_are_those_that_are_loaded(tmp_path):
    (tmp_path / "data").mkdir()
    rows = [row | {"half": number % 2} for number, row in enumerate(triplets(7))]
    features = datasets.Features(TRIPLET_FEATURES | {"half": datasets.Value("int64")})
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    for columns in ((), ("half",)):
        loaded = load_triplets(str(tmp_path / "data"), columns=columns)
        streamed = stream_triplets(str(tmp_path / "data"), columns=columns)
        assert streamed.features == loaded.features and list(streamed) == list(loaded)


def test_other_forms_of_ids_and_images(tmp_path):
    row = triplet(0)
    changed = {"id": 7, "reference_image": row["reference_image"]["bytes"], "target_image": "images/0.png"}
    changed |= {name: row[name] for name in ("modification_text", "reference_id", "target_id")}
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_list([changed]).to_parquet(tmp_path / "data" / "train.parquet")
    (found,) = stream_triplets(str(tmp_path / "data"), require_noun_phrases=False)
    assert found["id"] == "7" and found["noun_phrases"] == []
    assert found["reference_image"] == row["reference_image"]
    assert found["target_image"] == {"bytes": None, "path": "images/0.png"}


@pytest.mark.parametrize("image", ["png", "JPG"])
def test_archives(tmp_path, image):
    rows = triplets(12)
    for number, row in enumerate(rows[:10]):  # `datasets` learns the types from the first five
        if number % 2 == 0:
            row["noun_phrases"] = []
    found = {row["id"]: row for row in stream_triplets(write_archives(tmp_path / "data", rows, image=image))}
    assert len(found) == 12
    for row in rows:
        one = found[row["id"]]
        assert list(one) == list(TRIPLET_FEATURES)
        for name in ("modification_text", "noun_phrases"):
            assert one[name] == row[name]
        for side in ("reference", "target"):
            assert one[f"{side}_image"]["bytes"] == row[f"{side}_image"]["bytes"]
            assert one[f"{side}_id"] == f"{row['id']}.{side}.{image}"


def test_archives_may_have_maps_for_some_rows(tmp_path):
    """A triplet without noun phrases has none."""
    rows = [row | {PHRASE_MAPS: [[0.5, 0.5]] * len(row["noun_phrases"]) or None} for row in triplets(6)]
    assert [row["id"] for row in rows if row[PHRASE_MAPS] is None]
    folder = write_archives(tmp_path / "data", rows, facts=("modification_text", "noun_phrases", PHRASE_MAPS))
    stream = stream_triplets(folder, columns=[PHRASE_MAPS])
    assert stream.features[PHRASE_MAPS] == MAPS_FEATURE
    assert {row["id"]: row[PHRASE_MAPS] for row in stream} == {row["id"]: row[PHRASE_MAPS] for row in rows}


def test_archives_may_name_their_images(tmp_path):
    facts = ("id", "reference_id", "target_id", "modification_text", "noun_phrases", "half")
    rows = [row | {"half": 1} for row in triplets(3)]
    found = list(stream_triplets(write_archives(tmp_path / "data", rows, 1, facts=facts), columns=["half"]))
    assert [{name: row[name] for name in facts} for row in found] == [
        {name: row[name] for name in facts} for row in rows
    ]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"modification_text": " "}, "id 't2': modification_text is empty"),
        ({"target_id": ""}, "id 't2': target_id is empty"),
        ({"noun_phrases": [{"text": "a cat", "start": 0, "end": 5}]}, "id 't2'.*says 'a cat'.*has 'remov'"),
    ],
    ids=str,
)
def test_bad_rows_are_named_when_they_come(tmp_path, change, message):
    rows = [triplet(row, **(change if row == 2 else {})) for row in range(4)]
    streamed = stream_triplets(write_parquet(tmp_path / "data", train=rows))
    with pytest.raises(ValueError, match=message):
        list(streamed)


def test_what_cannot_be_streamed(tmp_path):
    data = write_parquet(tmp_path / "data", train=triplets(3))
    with pytest.raises(ValueError, match=r"train\[:2\].*Name a whole split"):
        stream_triplets(data, "train[:2]")
    with pytest.raises(ValueError, match="no column negative_ids.*contextcir mine"):
        stream_triplets(data, columns=["negative_ids"])
    with pytest.raises(ValueError, match="image folder cannot be streamed"):
        stream_triplets(write_image_folder(tmp_path / "images"))
    archives = write_archives(tmp_path / "archives", triplets(3), leave_out=("target.png",))
    with pytest.raises(ValueError, match=r"expected KEY.reference.jpg.*got files with the ends reference.png, json"):
        stream_triplets(archives)
    archives = write_archives(tmp_path / "plain", triplets(3), facts=("modification_text",))
    with pytest.raises(ValueError, match="no column noun_phrases.*contextcir phrases"):
        stream_triplets(archives)
    assert len(list(stream_triplets(archives, require_noun_phrases=False))) == 3


def test_a_mixture_has_its_shares(tmp_path):
    first = write_parquet(tmp_path / "a", train=[triplet(0, id=f"a{row}") for row in range(60)])
    second = write_parquet(tmp_path / "b", train=[triplet(0, id=f"b{row}") for row in range(20)])
    parts = [stream_triplets(first), stream_triplets(second)]
    ids = [row["id"] for row in mix_streams(parts, [3, 1], seed=1)]
    assert set(ids) == {f"a{row}" for row in range(60)} | {f"b{row}" for row in range(20)}
    assert sum(id_.startswith("a") for id_ in ids) / len(ids) == pytest.approx(0.75, abs=0.1)
    assert ids != [row["id"] for row in mix_streams(parts, [3, 1], seed=2)]
    assert mix_streams(parts[:1], None) is parts[0]
    for some, weights in ((parts, None), (parts, [1, 0]), (parts[:1], [1])):
        with pytest.raises(ValueError, match="data_weights"):
            mix_streams(some, weights)
