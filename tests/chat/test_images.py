"""Plain image files are sent as they are, everything else as an upright RGB JPEG."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from contextcir.chat.images import image_url
from contextcir.data.images import encode_image, load_image

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)
ROTATED = Image.Exif()
ROTATED[0x0112] = 6


def decode(url):
    kind, content = url.split(";base64,")
    return kind, base64.b64decode(content)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True})])
def test_plain_files_are_sent_as_they_are(kind, options):
    content = encode_image(PHOTO, kind, **options)
    assert decode(image_url(content, 1024)) == (f"data:image/{kind.lower()}", content)


@pytest.mark.parametrize(
    "source",
    [
        encode_image(PHOTO, "JPEG", exif=ROTATED),
        encode_image(PHOTO, "PNG", exif=ROTATED),
        encode_image(PHOTO.convert("CMYK"), "JPEG"),
        encode_image(PHOTO.convert("L"), "PNG"),
        encode_image(PHOTO.convert("RGBA"), "PNG"),
        encode_image(PHOTO.convert("P"), "PNG"),
        encode_image(PHOTO, "PNG", transparency=(0, 0, 0)),
        encode_image(PHOTO, "WEBP"),
        encode_image(PHOTO, "BMP"),
        PHOTO,
        PIXELS,
    ],
)
def test_other_images_are_sent_as_upright_jpeg(source):
    kind, content = decode(image_url(source, 1024))
    assert kind == "data:image/jpeg"
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG" and image.mode == "RGB" and not image.getexif()
        assert image.size == load_image(source).size


@pytest.mark.parametrize("size", [(100, 40), (40, 100)])
def test_large_images_are_scaled_down(size):
    kind, content = decode(image_url(encode_image(Image.new("RGB", size, "green")), 50))
    assert kind == "data:image/jpeg"
    assert sorted(Image.open(io.BytesIO(content)).size) == [20, 50]
