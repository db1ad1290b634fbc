"""Pictures over HTTP: by id alone, small, cached, and without anything but their pixels."""

import io
import shutil

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from contextcir.retrieval.base import Gallery
from contextcir.serving.thumbnails import SIZES, Thumbnails, thumbnail
from tests.serving.world import COLOURS, draw


@pytest.fixture
def own(tmp_path, retriever):
    """A gallery whose pictures a test may change."""
    (tmp_path / "photos" / "in a folder").mkdir(parents=True)
    photo = draw("blue", "square", 0.5, 700).crop((0, 0, 700, 500))
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "taken at home", 6  # a description, and: turn clockwise
    exif.get_ifd(0x8825)[1] = "N"  # the place
    photo.save(
        tmp_path / "photos" / "photo.jpg",
        exif=exif,
        comment="a comment",
        icc_profile=b"a profile",
        xmp=b"<x:xmpmeta>home</x:xmpmeta>",
    )
    text = PngInfo()
    text.add_text("Comment", "a comment")
    draw("red", "circle", 0.5).save(tmp_path / "photos" / "in a folder" / "100%? #1.png", pnginfo=text)
    Gallery.build(tmp_path / "photos", retriever, tmp_path / "stored", quiet=True)
    return Gallery.open(tmp_path / "stored", retriever)


def test_a_thumbnail_is_upright_and_bare(own, start, tmp_path):
    original = (tmp_path / "photos" / "photo.jpg").read_bytes()
    assert all(word in original for word in (b"home", b"comment", b"profile"))
    answer = start(own).get("/images/photo.jpg?size=256")
    assert answer.headers["content-type"] == "image/jpeg"
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (183, 256)  # turned, with its proportions
    assert not image.getexif() and not {"exif", "comment", "icc_profile", "xmp"} & set(image.info)
    assert not [word for word in (b"home", b"comment", b"profile", b"Exif", b"http") if word in answer.content]


@pytest.mark.parametrize("info", [{"comment": b"c"}, {"exif": b"Exif\0\0"}, {"xmp": b"x"}, {"icc_profile": b"p"}])
def test_what_an_image_carries_is_dropped(info):
    image = draw("red", "circle", 0.5)
    bare = thumbnail(image, 128)
    image.info |= info
    assert thumbnail(image, 128) == bare and image.info


def test_ids_with_unusual_characters(own, start):
    client = start(own)
    answer = client.get("/images/in%20a%20folder%2F100%25%3F%20%231.png")
    assert answer.status_code == 200
    assert Image.open(io.BytesIO(answer.content)).size == (120, 120)  # it is not made larger


@pytest.mark.parametrize(
    "path",
    [
        "../../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2fetc%2fpasswd",
        "circle%2F..%2Fcircle%2Fred%2040.png",
        "metadata.csv",
        "circle",
        "",
        "circle%2Fred%2040.png%00",
        "circle/red 40.png/",
    ],
)
def test_addresses_that_are_no_ids(client, path):
    answer = client.get(f"/images/{path}")
    assert answer.status_code == 404 and "error" in answer.json()


def test_sizes(client):
    for size in SIZES:
        assert client.get(f"/images/circle%2Fred%2040.png?size={size}").status_code == 200
    for size in ("0", "-1", "100000", "257", "x"):
        assert client.get(f"/images/circle%2Fred%2040.png?size={size}").status_code == 422


def test_browsers_may_keep_a_picture(client):
    answer = client.get("/images/circle%2Fred%2040.png")
    tag = answer.headers["etag"]
    assert answer.headers["cache-control"] == "private, max-age=86400"
    again = client.get("/images/circle%2Fred%2040.png", headers={"If-None-Match": tag})
    assert again.status_code == 304 and not again.content and again.headers["etag"] == tag
    other = client.get("/images/circle%2Fred%2060.png", headers={"If-None-Match": tag})
    assert other.status_code == 200 and other.headers["etag"] != tag


def test_a_picture_that_is_gone(own, start, tmp_path):
    client = start(own)
    (tmp_path / "photos" / "photo.jpg").unlink()
    for answer in (client.get("/images/photo.jpg"), client.post("/search", data={"reference": "photo.jpg"})):
        assert answer.status_code == 404 and str(tmp_path) not in answer.text
        assert "moved or removed" in answer.json()["error"]
    shutil.rmtree(tmp_path / "photos")
    assert client.post("/search", data={"text": "x"}).status_code == 200  # embeddings are enough


def test_thumbnails_are_kept_up_to_a_size(gallery, monkeypatch):
    read = []
    image = gallery.image
    monkeypatch.setattr(gallery, "image", lambda id_: read.append(id_) or image(id_))
    kept = Thumbnails(kept_bytes=3 * len(thumbnail(image("circle/red 40.png"), 128)))
    assert kept.kept(gallery, "circle/red 40.png", 128) is None
    made = kept.make(gallery, "circle/red 40.png", 128)
    assert kept.kept(gallery, "circle/red 40.png", 128) == made and read == ["circle/red 40.png"]
    assert kept.kept(gallery, "circle/red 40.png", 256) is None
    for colour in COLOURS:
        kept.make(gallery, f"circle/{colour} 60.png", 128)
    assert kept.kept(gallery, "circle/red 40.png", 128) is None  # it had to make room
    assert kept._bytes <= kept.kept_bytes
