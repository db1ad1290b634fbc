"""Listing the images of folders as people have them."""

import pytest
from PIL import Image

from contextcir.data.folders import images_in, list_images


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/2.PNG", "b/1.jpg", "a.webp", "c.jfif", ".hidden.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    return tmp_path


def test_sorted_and_recursive(folder):
    assert images_in(folder) == ["a.webp", "b/1.jpg", "b/2.PNG", "c.jfif"]


def test_hidden_folders_thumbnails_and_formats_that_cannot_be_read(folder):
    for name in (".trash/x.png", "@eaDir/a.webp", "b/@eaDir/1.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    for name in ("IMG_1.HEIC", "b/IMG_2.heic", "raw.dng"):
        (folder / name).touch()
    found = list_images(folder)
    assert found.names == ["a.webp", "b/1.jpg", "b/2.PNG", "c.jfif"]
    assert found.left_out == {".dng": 1, ".heic": 2}


def test_links_are_followed_once(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Image.new("RGB", (4, 4)).save(elsewhere / "far.png")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "b" / "up").symlink_to(folder)  # a loop
    (elsewhere / "round").symlink_to(elsewhere)
    (folder / "link.jpg").symlink_to(folder / "b" / "1.jpg")
    assert images_in(folder) == ["a.webp", "b/1.jpg", "b/2.PNG", "c.jfif", "link.jpg", "linked/far.png"]


def test_nothing_there(folder):
    (folder / "empty").mkdir()
    (folder / "empty" / "IMG.heic").touch()
    with pytest.raises(ValueError, match=rf"{folder}/empty .*\.apng, .*\.webp.* 1 \.heic"):
        images_in(folder / "empty")
    with pytest.raises(ValueError, match="absent"):
        list_images(folder / "absent")
