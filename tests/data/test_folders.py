"""Listing the images of folders as people have them."""

import os
import socket
import unicodedata

import pytest
from PIL import Image

from contextcir.data import folders
from contextcir.data.folders import FileNames, files_in, images_in, list_images

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9.png") for form in ("NFC", "NFD"))


@pytest.fixture
def without_heif(monkeypatch):
    """As where the extra `heif` is not installed."""
    monkeypatch.setattr(folders, "FORMATS", tuple(kind for kind in folders.FORMATS if kind != "HEIF"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/2.PNG", "b/1.jpg", "a.webp", "c.jfif", ".hidden.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    return tmp_path


def test_sorted_and_recursive(folder):
    assert images_in(folder) == ["a.webp", "b/1.jpg", "b/2.PNG", "c.jfif"]


@pytest.mark.fault("F02", "images of formats that cannot be read are counted by kind, with what would read them")
def test_hidden_folders_thumbnails_and_formats_that_cannot_be_read(folder, without_heif, caplog):
    for name in (".trash/x.png", "@eaDir/a.webp", "b/@eaDir/1.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    for name in ("IMG_1.HEIC", "b/IMG_2.heic", "raw.dng"):
        (folder / name).touch()
    found = list_images(folder)
    assert found.names == ["a.webp", "b/1.jpg", "b/2.PNG", "c.jfif"]
    assert found.left_out == {".dng": 1, ".heic": 2}
    assert images_in(folder) == found.names
    assert "1 .dng" in caplog.text and "2 .heic" in caplog.text and "contextcir[heif]" in caplog.text


@pytest.mark.fault("F01", "a folder with links in loops, waste bins and folders named like images is listed once")
def test_links_are_followed_once(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Image.new("RGB", (4, 4)).save(elsewhere / "far.png")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "b" / "up").symlink_to(folder)  # a loop
    (elsewhere / "round").symlink_to(elsewhere)
    (folder / "link.jpg").symlink_to(folder / "b" / "1.jpg")
    (folder / "a link to b").symlink_to(folder / "b")  # before b, which is there under its own name
    (folder / "x.jpg").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "x.jpg" / "in.png")
    for name in ("#recycle", "__MACOSX", "lost+found"):
        (folder / name).mkdir()
        Image.new("RGB", (4, 4)).save(folder / name / "old.png")
    expected = ["a.webp", "b/1.jpg", "b/2.PNG", "c.jfif", "link.jpg", "linked/far.png", "x.jpg/in.png"]
    assert images_in(folder) == expected


def test_nothing_there(folder, without_heif):
    (folder / "empty").mkdir()
    (folder / "empty" / "IMG.heic").touch()
    with pytest.raises(ValueError, match=rf"{folder}/empty .*\.apng, .*\.webp.* 1 \.heic"):
        images_in(folder / "empty")
    with pytest.raises(ValueError, match="absent"):
        list_images(folder / "absent")


@pytest.mark.fault("F03", "a pipe, a socket or a link to a device among the images is left out and counted")
def test_what_never_ends_is_left_out(folder):
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s.png"))
        found = list_images(folder)
    assert found.names == ["a.webp", "b/1.jpg", "b/2.PNG", "c.jfif"] and found.left_out == {folders.SPECIAL: 3}


def test_a_broken_link_is_listed(folder):
    """Whoever reads it says that there is no such file; leaving it out would hide a lost disk."""
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    assert "gone.png" in list_images(folder).names


@pytest.mark.fault("F04", "a sub-folder that cannot be read is named, and its images do not seem to be gone")
def test_a_folder_without_permission(folder, monkeypatch):
    scandir = os.scandir

    def refuse(place):
        if place.name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=rf"{folder}/b .*Permission denied"):
        list_images(folder)


@pytest.mark.fault("F05", "a file whose name is no UTF-8 is left out and counted")
def test_names_that_are_no_unicode(folder):
    try:
        (folder / os.fsdecode(b"caf\xe9.png")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    found = list_images(folder)
    assert found.left_out == {folders.NO_UNICODE: 1} and len(found.names) == 4


@pytest.mark.fault("F06", "names that differ in their Unicode form only are found, and named where several do")
def test_names_in_another_unicode_form(folder, caplog):
    assert NFC != NFD
    for on_disk, asked in ((NFC, NFD), (NFD, NFC)):
        assert FileNames(["a", on_disk]).find(asked) == on_disk
    both = FileNames([NFC, NFD])
    assert both.find(NFC) == NFC and both.find(NFD) == NFD and both.find("b") is None
    mixed = "\u00e9 e\u0301"
    several = FileNames([unicodedata.normalize(form, mixed) for form in ("NFC", "NFD")])
    with pytest.raises(ValueError, match=r"\\xe9.*e\\u0301"):
        several.find(mixed)
    list_images(folder)
    assert not caplog.records
    for name in (NFC, NFD):
        Image.new("RGB", (4, 4)).save(folder / name)
    if len({path.name for path in folder.iterdir()} & {NFC, NFD}) < 2:
        pytest.skip("this file system takes both for one name")
    list_images(folder)
    assert ascii(NFC) in caplog.text and ascii(NFD) in caplog.text


def test_files_by_their_ending(folder):
    (folder / "b" / "x.parquet").mkdir()
    (folder / "b" / "y.Parquet").touch()
    (folder / ".cache").mkdir()
    (folder / ".cache" / "z.parquet").touch()
    assert files_in(folder, [".parquet"]) == ["b/y.Parquet"]
    assert "notes.txt" in files_in(folder)
