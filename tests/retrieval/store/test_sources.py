"""Folders, lists of files and data sets as sources, found by name and opened again."""

import io
import tarfile
import unicodedata

import pytest
import torch
from datasets import Dataset, Features, Image, Value

from contextcir.data.images import ImageError, load_image
from contextcir.retrieval.base import Gallery
from contextcir.retrieval.store.dataset_sources import DatasetSource, StreamSource
from contextcir.retrieval.store.layout import StoreError
from contextcir.retrieval.store.operations import index_images
from contextcir.retrieval.store.sources import FilesSource, FolderSource, find_source, open_source
from tests.retrieval.store.photos import retriever_of, write_photo, write_photos

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9.png") for form in ("NFC", "NFD"))


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 4)


def test_a_folder(photos):
    source = find_source(photos)
    assert isinstance(source, FolderSource) and source.ids == ["a/000.png", "a/002.png", "b/001.png", "b/003.png"]
    again = open_source(source.describe())
    assert load_image(again.image("b/003.png")).size == (8, 8)
    (photos / "IMG.DNG").touch()
    assert find_source(photos).left_out == {".dng": 1}


@pytest.mark.parametrize("id_", ["../secret.png", "a/../../secret.png", "absent.png", "a"])
def test_an_id_leads_nowhere_else(photos, id_):
    write_photo(photos.parent / "secret.png", 1)
    with pytest.raises(ImageError, match="gallery image"):
        FolderSource(photos).image(id_)
    with pytest.raises(ImageError):
        FolderSource(photos).image(str(photos.parent / "secret.png"))


def test_facts_of_a_folder(photos):
    (photos / "metadata.csv").write_text('file_name,price,name\na/000.png,12,red "one"\nb/001.png,nan,\n')
    source = FolderSource(photos)
    assert source.facts("a/000.png") == {"price": 12, "name": 'red "one"'}
    (photos / "metadata.jsonl").write_text("{")  # the first one counts
    assert source.facts("b/001.png") == {"price": "nan", "name": None} and source.facts("b/003.png") == {}
    (photos / "metadata.csv").write_text("file_name,sold\na/000.png,true\nb/001.png,False\n")
    assert [FolderSource(photos).facts(id_)["sold"] for id_ in ("a/000.png", "b/001.png")] == [True, False]
    (photos / "metadata.csv").write_text("name\nx\n")
    with pytest.raises(StoreError, match="file_name"):
        FolderSource(photos).facts("a/000.png")
    (photos / "metadata.csv").unlink()
    (photos / "metadata.jsonl").write_text('{"file_name": "a/000.png", "tags": ["x"], "n": 1, "text": "12"}\n')
    assert FolderSource(photos).facts("a/000.png") == {"tags": '["x"]', "n": 1, "text": "12"}
    (photos / "metadata.jsonl").write_text("{")
    with pytest.raises(StoreError, match="metadata.jsonl"):
        FolderSource(photos).facts("a/000.png")


@pytest.mark.fault("F21", "rows of metadata find images whose names have another Unicode form, and two rows are named")
def test_metadata_in_another_unicode_form(photos):
    write_photo(photos / NFD, 9)
    with open(photos / "metadata.csv", "w", encoding="utf-8-sig") as file:  # as Excel writes it
        file.write(f"file_name,price\n{NFC},12\n")
    source = FolderSource(photos)
    assert NFD in source.ids and source.facts(NFD) == {"price": 12}
    assert load_image(source.image(NFC)).size == (8, 8)
    (photos / "list.txt").write_text(f"{NFC}\n", encoding="utf-8")
    assert load_image(FilesSource(photos / "list.txt").image(NFC)).size == (8, 8)
    (photos / "metadata.csv").write_text(f"file_name,price\n{NFC},12\n{NFD},13\n")
    with pytest.raises(StoreError, match="several rows.*caf"):
        FolderSource(photos).facts(NFD)


@pytest.mark.fault("F22", "hidden data files, and folders named like data, do not turn photographs into a data set")
def test_photographs_with_a_hidden_cache(photos):
    (photos / ".cache").mkdir()
    (photos / ".cache" / "x.parquet").write_bytes(b"x")
    (photos / "old.tar").mkdir()
    write_photo(photos / "old.tar" / "in.png", 9)
    source = find_source(photos)
    assert isinstance(source, FolderSource) and "old.tar/in.png" in source.ids


def test_a_list_of_files(photos):
    (photos / "list.txt").write_text("b/001.png\n\na/000.png\nabsent.png\n")
    source = find_source(photos / "list.txt")
    assert isinstance(source, FilesSource) and source.ids == ["b/001.png", "a/000.png", "absent.png"]
    assert load_image(open_source(source.describe()).image("a/000.png")).size == (8, 8)
    for id_ in ("absent.png", "a/002.png"):
        with pytest.raises(ImageError, match=id_):
            source.image(id_)
    (photos / "list.txt").write_text("b/001.png\nb/001.png\n")
    with pytest.raises(ValueError, match="b/001.png"):
        find_source(photos / "list.txt")


def test_a_data_set(photos, tmp_path):
    rows = {
        "id": ["x", "y"],
        "image": [{"bytes": (photos / name).read_bytes(), "path": None} for name in ("a/000.png", "b/001.png")],
        "price": [1.5, None],
        "words": [["a"], ["b"]],
        "name": ["red", "blue"],
    }
    Dataset.from_dict(rows).cast_column("image", Image(decode=False)).to_parquet(tmp_path / "set" / "train.parquet")
    source = find_source(tmp_path / "set")
    assert isinstance(source, DatasetSource) and source.ids == ["x", "y"]
    assert load_image(source.image("y")) == load_image(photos / "b" / "001.png")
    assert source.facts("x") == {"price": 1.5, "name": "red"} and source.facts("y") == {"price": None, "name": "blue"}
    assert open_source(source.describe()).ids == ["x", "y"]
    assert find_source(tmp_path / "set", id_column="name").ids == ["red", "blue"]
    with pytest.raises(StoreError, match="'photo'.*image"):
        find_source(tmp_path / "set", image_column="photo")
    with pytest.raises(ImageError, match="'z'"):
        source.image("z")


def test_a_data_set_without_ids_and_with_a_bad_image(photos, tmp_path):
    features = Features({"image": Image(), "label": Value("int64")})
    images = [{"bytes": (photos / "a" / "000.png").read_bytes(), "path": None}, {"bytes": b"x", "path": None}]
    Dataset.from_dict({"image": images, "label": [3, 4]}, features=features).to_parquet(tmp_path / "s" / "a.parquet")
    source = find_source(tmp_path / "s", split="train")
    assert source.ids == ["000000000", "000000001"] and source.facts("000000001") == {"label": 4}
    with pytest.raises(ImageError):
        load_image(source.image("000000001"))


@pytest.fixture
def numbered(photos, tmp_path):
    """Sixty rows in three files, without ids."""
    write_photos(photos, 60)
    for part in range(3):
        images = [{"bytes": path.read_bytes(), "path": None} for path in sorted(photos.rglob("*.png"))][part::3]
        rows = Dataset.from_dict({"picture": images, "part": [part] * len(images)})
        rows.cast_column("picture", Image(decode=False)).to_parquet(tmp_path / "many" / f"train-{part}.parquet")
    return tmp_path / "many"


def test_a_stream_gives_the_gallery_of_the_data_set(numbered, tmp_path, monkeypatch):
    monkeypatch.setattr("contextcir.retrieval.store.dataset_sources.AHEAD", 8)
    galleries = []
    for streaming in (False, True):
        source = find_source(numbered, image_column="picture", streaming=streaming)
        assert isinstance(source, StreamSource if streaming else DatasetSource) and len(source.ids) == 60
        index_images(source, retriever_of(), tmp_path / f"{streaming}", shard_size=7, quiet=True)
        galleries.append(Gallery.open(tmp_path / f"{streaming}"))
    assert galleries[0].ids == galleries[1].ids and galleries[0].facts == galleries[1].facts
    assert torch.equal(galleries[0].rows[0:60], galleries[1].rows[0:60])
    for place in (59, 0, 30, 29):  # back and forth
        id_ = galleries[1].ids[place]
        assert galleries[1].image(id_) == galleries[0].image(id_)


def test_the_only_column_of_images_is_found(numbered):
    assert find_source(numbered).facts("000000059") == {"part": 2}


def test_web_dataset(photos, tmp_path):
    (tmp_path / "wds").mkdir()
    with tarfile.open(tmp_path / "wds" / "train-0.tar", "w") as archive:
        for name in ("000", "002"):
            facts = io.BytesIO(b'{"price": %d}' % int(name))
            for suffix, content in (("png", (photos / "a" / f"{name}.png").read_bytes()), ("json", facts.getvalue())):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    source = find_source(tmp_path / "wds")
    assert source.ids == ["000", "002"] and load_image(source.image("002")) == load_image(photos / "a" / "002.png")


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    assert find_source(tmp_path / "empty").ids == []
    with pytest.raises(ValueError, match="absent"):
        find_source(tmp_path / "absent" / "folder")
