"""Images of triplets that cannot be read are named, and are found in advance."""

import os

import datasets
import pytest

from contextcir.data.images import ImageError
from contextcir.data.triplet_images import find_bad_images, triplet_image
from contextcir.data.triplets import TRIPLET_FEATURES, load_triplets
from tests.tiny_triplets import dataset, png, triplets, write_image_folder


def undecoded(rows):
    for column in ("reference_image", "target_image"):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


BAD_IMAGES = {"empty": b"", "truncated": png(0)[:-60], "not an image": b"<html>404</html>"}


@pytest.mark.parametrize("content", BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_bad_images_are_named_and_found(content):
    rows = triplets(4)
    rows[2]["target_image"]["bytes"] = content
    assert triplet_image(rows[2], "reference_image").size == (34, 30)
    with pytest.raises(ImageError, match="triplet 't2', target_image: "):
        triplet_image(rows[2], "target_image")
    (bad,) = find_bad_images(undecoded(dataset(rows)))
    assert (bad["row"], bad["id"], bad["column"]) == (2, "t2", "target_image")
    assert "triplet 't2'" in bad["error"]


@pytest.mark.parametrize("as_images", [False, True])
def test_changed_files_are_read_again(tmp_path, as_images):
    """Also a damaged file of the same size and modification time, which copying keeps."""
    folder = tmp_path / "images"
    write_image_folder(folder, noun_phrases=[])
    if not as_images:  # a Parquet file of paths
        rows = [
            row | {"reference_image": f"{folder}/one.png", "target_image": f"{folder}/two.png"} for row in triplets(2)
        ]
        kinds = TRIPLET_FEATURES | dict.fromkeys(("reference_image", "target_image"), datasets.Value("string"))
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


def test_unchanged_files_are_read_again_only_by_other_code(tmp_path, monkeypatch):
    folder = write_image_folder(tmp_path / "images", noun_phrases=[])
    find_bad_images(load_triplets(folder))
    monkeypatch.setattr("contextcir.data.triplet_images.triplet_image", lambda *_: pytest.fail("read again"))
    assert find_bad_images(load_triplets(folder)) == []
    monkeypatch.setattr("PIL.__version__", "0")
    with pytest.raises(pytest.fail.Exception, match="read again"):
        find_bad_images(load_triplets(folder))


def test_a_missing_file_is_named(tmp_path):
    folder = write_image_folder(tmp_path / "images", noun_phrases=[])
    (tmp_path / "images" / "two.png").unlink()
    loaded = load_triplets(folder)
    assert [(bad["row"], bad["column"]) for bad in find_bad_images(loaded)] == [
        (0, "target_image"),
        (1, "reference_image"),
    ]
    with pytest.raises(ImageError, match="triplet '0', target_image .*two.png"):
        triplet_image(loaded[0], "target_image")
