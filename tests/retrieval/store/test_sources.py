"""Folders, lists of files and data sets as sources, found by name and opened again."""

import pytest
from datasets import Dataset, Features, Image, Value

from contextcir.data.images import ImageError, load_image
from contextcir.retrieval.store.layout import StoreError
from contextcir.retrieval.store.sources import DatasetSource, FilesSource, FolderSource, find_source, open_source
from tests.retrieval.store.photos import write_photo, write_photos


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 4)


def test_a_folder(photos):
    source = find_source(photos)
    assert isinstance(source, FolderSource) and source.ids == ["a/000.png", "a/002.png", "b/001.png", "b/003.png"]
    again = open_source(source.describe())
    assert load_image(again.image("b/003.png")).size == (8, 8)
    (photos / "IMG.HEIC").touch()
    assert find_source(photos).left_out == {".heic": 1}


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
    assert source.facts("b/001.png") == {"price": "nan", "name": None} and source.facts("b/003.png") == {}
    (photos / "metadata.csv").write_text("name\nx\n")
    with pytest.raises(StoreError, match="file_name"):
        FolderSource(photos).facts("a/000.png")
    (photos / "metadata.csv").unlink()
    (photos / "metadata.jsonl").write_text('{"file_name": "a/000.png", "tags": ["x"], "n": 1, "text": "12"}\n')
    assert FolderSource(photos).facts("a/000.png") == {"tags": '["x"]', "n": 1, "text": "12"}
    (photos / "metadata.jsonl").write_text("{")
    with pytest.raises(StoreError, match="metadata.jsonl"):
        FolderSource(photos).facts("a/000.png")


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


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    assert find_source(tmp_path / "empty").ids == []
    with pytest.raises(ValueError, match="absent"):
        find_source(tmp_path / "absent" / "folder")
