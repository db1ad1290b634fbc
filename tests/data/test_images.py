"""Images of every kind are read as a viewer shows them, or are an error that names them."""

import os
import re
import struct
import unicodedata
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from contextcir.data import image_files, images
from contextcir.data.content import image_content
from contextcir.data.images import ImageError, encoded_file, load_image, stored_image
from contextcir.data.images import encode_image as encode

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # of Pillow, for damaged files

COLOURS = np.array(  # corners that distinguish every rotation and flip
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 0], [0, 255, 255], [255, 0, 255]]], dtype=np.uint8
)


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image)


def raw_png(width, height, depth, colours, row=b"", transparent=None):
    """A PNG built from chunks, for variants that Pillow does not write; `colours` is 0 for grey, 2 for RGB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    if transparent is not None:
        header += chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row and b"\0" + row)) + chunk(b"IEND", b"")


def png_header(width, height):
    """A PNG with a size in its header and no pixels, so that decoding it fails."""
    return raw_png(width, height, 8, 2)


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


# --- sources ---------------------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_pixels(tmp_path, photo):
    content = encode(photo)
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    sources = [
        content,
        bytearray(content),
        memoryview(content),
        str(path),
        path,
        np.asarray(photo),
        photo,
        Image.open(path),
    ]
    sources += [
        {"bytes": content, "path": None},
        {"bytes": None, "path": str(path)},
        {"bytes": content, "path": "gone.png"},
    ]
    for source in sources:
        assert (pixels(load_image(source)) == np.asarray(photo)).all(), type(source)


def test_the_image_of_the_caller_is_not_changed(photo):
    before = photo.copy()
    loaded = load_image(photo)
    loaded.putpixel((0, 0), (1, 2, 3))
    assert photo == before


@pytest.mark.parametrize(
    "source, named",
    [
        (None, "NoneType"),
        (3, "int"),
        ({"bytes": None, "path": None}, "NoneType"),
        ({}, "NoneType"),
        (b"", "0 bytes"),
        ({"bytes": b"", "path": "x.png"}, "0 bytes"),
        ("https://example.org/a.png", "https://example.org/a.png"),
        ("no/such/file.png", "no/such/file.png"),
        ("a\0b.png", "null"),
    ],
)
def test_a_source_that_is_not_an_image(source, named):
    with pytest.raises(ImageError, match=f"row 7: .*{named}"):
        load_image(source, name="row 7")


def test_the_path_is_the_default_name(tmp_path):
    (tmp_path / "empty.jpg").touch()
    for source in (tmp_path / "empty.jpg", {"bytes": b"", "path": str(tmp_path / "empty.jpg")}):
        with pytest.raises(ImageError, match="empty.jpg: .*0 bytes"):
            load_image(source)
    with pytest.raises(ImageError, match=f"{tmp_path}: "):
        load_image(tmp_path)  # a folder


READERS = pytest.mark.parametrize("read", [load_image, image_content, encoded_file, lambda x: stored_image(x, str(x))])


@READERS
@pytest.mark.timeout(20)
@pytest.mark.fault("F07", "a pipe or a device that is read as an image is an error at once, and not an endless wait")
def test_what_never_ends_is_not_read(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.png"):
        with pytest.raises(ImageError, match=rf"{name}.*pipe.*device"):
            read(tmp_path / name)


@READERS
@pytest.mark.fault("F08", "a huge file is refused before it is read")
def test_a_file_is_read_up_to_a_limit(tmp_path, read, photo, monkeypatch):
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(image_files.MAX_BYTES + 1)
    with pytest.raises(ImageError, match=rf"huge.png.*{image_files.MAX_BYTES:,}"):
        read(tmp_path / "huge.png")
    photo.save(tmp_path / "grows.png")
    content = (tmp_path / "grows.png").read_bytes()
    monkeypatch.setattr(image_files, "MAX_BYTES", len(content))
    read(tmp_path / "grows.png")
    monkeypatch.setattr(image_files.os, "stat", lambda path, stat=os.stat: _without_size(stat(path)))
    (tmp_path / "grows.png").write_bytes(content + b"x")
    with pytest.raises(ImageError, match=rf"grows.png.*{len(content):,}"):
        read(tmp_path / "grows.png")


def _without_size(facts):
    return os.stat_result([*facts[:6], 0, *facts[7:]])


@READERS
@pytest.mark.fault("F09", "a path whose names are on disk in another Unicode form is read")
def test_a_path_in_another_unicode_form(tmp_path, read, photo):
    folder, file = "\u00e9t\u00e9", "caf\u00e9.png"
    decomposed = unicodedata.normalize("NFD", folder)
    (tmp_path / decomposed).mkdir()
    photo.save(tmp_path / decomposed / file)  # one name in each form
    for path in (tmp_path / folder / file, tmp_path / decomposed / unicodedata.normalize("NFD", file)):
        read(path)
    with pytest.raises(ImageError, match="no such file"):
        read(tmp_path / folder / "th\u00e9.png")


HEIC = (Path(__file__).parents[1] / "fixtures" / "images" / "upright_by_exif.heic").read_bytes()


@pytest.mark.fault("F10", "a HEIC photograph is read and turned once, or its error names what to install")
def test_heic(monkeypatch):
    if not images.HEIF:
        with pytest.raises(ImageError, match=r"IMG.HEIC.*contextcir\[heif\]"):
            load_image(HEIC, name="IMG.HEIC")
        pytest.skip("needs the extra heif")
    image = load_image(HEIC)
    assert image.size == (32, 48)  # stored as 48 x 32
    for place, colour in (((4, 4), (40, 200, 40)), ((28, 4), (220, 40, 40)), ((4, 44), (40, 40, 220))):
        assert np.allclose(image.getpixel(place), colour, atol=3)
    monkeypatch.setattr(images, "HEIF", ())
    monkeypatch.setattr(images, "FORMATS", tuple(kind for kind in images.FORMATS if kind != "HEIF"))
    with pytest.raises(ImageError, match=r"IMG.HEIC.*contextcir\[heif\]"):
        load_image(HEIC, name="IMG.HEIC")


# --- damaged files ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000"])
def test_truncated_files(format, photo):
    content = encode(photo, format)
    load_image(content)
    for keep in (len(content) // 2, len(content) // 4, 20, 3):
        with pytest.raises(ImageError, match="key 'a'"):
            load_image(content[:keep], name="key 'a'")


@pytest.mark.parametrize(
    "content", [b"<html><body>404</body></html>", b"not an image", bytes(4096), b"GIF89a", b"\xff\xd8\xff"]
)
def test_files_that_are_not_images(content):
    with pytest.raises(ImageError, match="photo.jpg: "):
        load_image(content, name="photo.jpg")


def test_formats_that_start_programs_are_not_opened():
    with pytest.raises(ImageError, match="%!PS"):
        load_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


def test_damaged_pixel_data(photo):
    content = bytearray(encode(photo))
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    with pytest.raises(ImageError, match=r"photo\.png: .*\bOSError\b"):
        load_image(bytes(content), name="photo.png")


def test_a_decompressed_text_bomb_is_an_image_error(photo):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    with pytest.raises(ImageError, match=r"photo\.png: .*\bValueError\b"):
        load_image(encode(photo, pnginfo=info), name="photo.png")


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7100, 7100), (10_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_large_images_are_refused_by_their_header(size, action):
    # The file holds no pixels, so decoding it would be another error. 7,100^2 is below Pillow's own warning, 10,000^2
    # above the warning and 20,000^2 above its error.
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(ImageError, match="key 'big': .*50,000,000"):
            load_image(png_header(*size), name="key 'big'")


def test_the_limit_is_an_argument_and_holds_for_pixels_in_memory(photo):
    assert load_image(photo, max_pixels=48 * 64).size == (64, 48)
    for source in (photo, np.asarray(photo), encode(photo)):
        with pytest.raises(ImageError, match="64 x 48 .*3,071"):
            load_image(source, max_pixels=48 * 64 - 1)
    with pytest.raises(ImageError, match="10000 x 10000 .*50,000,000"):
        load_image(np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)))


@pytest.mark.parametrize("size", [(1, 101), (101, 1), (1, 100_000), (10_001, 100)])
def test_thin_images_are_refused_by_their_header(size):
    with pytest.raises(ImageError, match=f"key 'strip': .*{size[0]} x {size[1]} .*1:100"):
        load_image(png_header(*size), name="key 'strip'")


def test_images_of_the_largest_aspect_ratio():
    for source in (np.zeros((100, 1, 3), np.uint8), Image.new("RGB", (200, 2))):
        assert load_image(source).size in {(1, 100), (200, 2)}
    with pytest.raises(ImageError, match="1 x 101 .*1:100"):
        load_image(np.zeros((101, 1, 3), np.uint8))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_one_pixel(format):
    image = load_image(encode(Image.new("RGB", (1, 1), "white"), format))
    assert pixels(image).tolist() == [[[255, 255, 255]]]


def test_no_pixel():
    with pytest.raises(ImageError, match="5 x 0"):
        load_image(np.zeros((0, 5, 3), dtype=np.uint8))


# --- modes -----------------------------------------------------------------------------------------------------------


def test_cmyk_jpeg():
    cyan, black = (
        load_image(encode(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG")),
        Image.new("CMYK", (8, 8), (0, 0, 0, 255)),
    )
    assert np.abs(pixels(cyan).astype(int) - [0, 255, 255]).max() <= 3
    assert pixels(load_image(encode(black, "JPEG"))).max() <= 3


@pytest.mark.parametrize("format, mode", [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B"), ("PPM", "I;16")])
def test_16_bit_grey_is_scaled_not_saturated(format, mode):
    values = np.array([[0, 257, 32_768, 65_535]], dtype=">u2" if mode.endswith("B") else "<u2")
    image = Image.frombytes(mode, (4, 1), values.tobytes())
    for source in (encode(image, format), image, values.astype(np.uint16)):
        assert pixels(load_image(source))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_grey_with_a_transparent_value_is_white_there():
    values = np.array([[0, 1000, 65_535]], dtype=np.uint16)
    content = encode(Image.fromarray(values), transparency=1000)
    assert pixels(load_image(content))[0, :, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    "image, expected",
    [
        (Image.frombytes("L", (2, 1), b"\0\x37"), [255, 200]),
        (Image.frombytes("I;16", (2, 1), b"\0\0\xff\xff"), [255, 0]),
        (Image.fromarray(np.array([[0.0, 0.2]], np.float32)), [255, 204]),
    ],
    ids=["8 bits", "16 bits", "floats"],
)
def test_a_tiff_whose_zero_is_white(image, expected):
    black_is_zero = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    content = encode(image, "TIFF")
    assert content.count(black_is_zero) == 1
    content = content.replace(black_is_zero, struct.pack("<HHIHH", 262, 3, 1, 0, 0))
    assert pixels(load_image(content))[0, :, 0].tolist() == expected


def test_32_bit_integers_hold_16_bits_or_are_refused():
    assert pixels(load_image(Image.fromarray(np.array([[0, 65_535]], dtype=np.int32))))[0, :, 0].tolist() == [0, 255]
    for low, high in ((0, 70_000), (-1, 5)):
        with pytest.raises(ImageError, match=f"scan.tiff: .*int32 from {low} to {high},.*65535"):
            load_image(encode(Image.fromarray(np.array([[low, high]], dtype=np.int32)), "TIFF"), name="scan.tiff")


def test_float_tiff():
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert pixels(load_image(encode(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]
    for bad in (values * 255, values - 1, values + np.nan, values + np.inf):
        with pytest.raises(ImageError, match=f"depth.tiff: .*float32 from {bad.min()} to {bad.max()},"):
            load_image(encode(Image.fromarray(bad), "TIFF"), name="depth.tiff")


def test_bilevel_grey_and_palette():
    assert pixels(load_image(encode(Image.new("1", (2, 2), 1)))).min() == 255
    assert pixels(load_image(encode(Image.new("L", (2, 2), 77)))).tolist() == [[[77] * 3] * 2] * 2
    palette = Image.fromarray(COLOURS).quantize(6)
    assert palette.mode == "P"
    for format in ("PNG", "GIF"):
        assert (pixels(load_image(encode(palette, format))) == COLOURS).all()


def test_transparency_is_composited_on_white():
    rgba = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (10, 20, 30, 0))  # a hidden colour
    rgba.putpixel((2, 0), (0, 0, 0, 51))
    expected = [[255, 0, 0], [255, 255, 255], [204, 204, 204]]
    assert pixels(load_image(encode(rgba)))[0].tolist() == expected
    assert pixels(load_image(np.asarray(rgba)))[0].tolist() == expected
    assert (
        pixels(load_image(encode(Image.merge("LA", [Image.new("L", (1, 1), 9), Image.new("L", (1, 1), 0)])))).min()
        == 255
    )

    premultiplied = Image.frombytes("La", (2, 1), bytes([10, 51, 100, 255]))  # 50 with an opacity of a fifth, and 100
    assert pixels(load_image(premultiplied))[0, :, 0].tolist() == [214, 100]

    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 255, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    for transparency in (0, b"\x00\xff"):
        assert pixels(load_image(encode(palette, transparency=transparency)))[0].tolist() == [[255] * 3, [255, 0, 0]]
    rgb = encode(Image.fromarray(COLOURS), transparency=(0, 255, 0))
    assert pixels(load_image(rgb))[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]


def test_a_transparent_colour_that_pillow_misreads_is_an_error():
    row = struct.pack(">6H", 1000, 2000, 3000, 1001, 2001, 3001)  # equal after Pillow's scaling to 8 bits
    assert pixels(load_image(raw_png(2, 1, 16, 2, row))).tolist() == [[[3, 7, 11]] * 2]
    grey = bytes([0b00011011])  # 0, 1, 2, 3 of two bits
    assert pixels(load_image(raw_png(4, 1, 2, 0, grey)))[0, :, 0].tolist() == [0, 85, 170, 255]
    assert pixels(load_image(raw_png(4, 1, 2, 0, grey, transparent=[0])))[0, :, 0].tolist() == [255, 85, 170, 255]
    colour, level = raw_png(2, 1, 16, 2, row, [1000, 2000, 3000]), raw_png(4, 1, 2, 0, grey, [1])
    for content, depth in ((colour, "RGB;16B"), (level, "L;2")):
        with pytest.raises(ImageError, match=f"key 'a': .*{depth} "):
            load_image(content, name="key 'a'")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.fault("F11", "an image that was read upright is not turned once more where it is read again")
def test_exif_orientation_is_applied(orientation, format):
    upright = Image.fromarray(COLOURS)
    stored = {  # the stored pixels for each orientation: the inverse of the transformation of a viewer
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }[orientation](COLOURS)
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(encode(image, format, exif=exif))
    assert (pixels(loaded) == np.asarray(upright)).all()
    assert (pixels(load_image(loaded)) == np.asarray(upright)).all() and not loaded.info


def test_damaged_exif_does_not_lose_the_pixels(photo):
    assert load_image(encode(photo, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")).size == photo.size


def test_the_first_frame_of_an_animation():
    content = encode(
        Image.new("RGB", (4, 4), "red"), "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")]
    )
    assert pixels(load_image(content))[0, 0].tolist() == [255, 0, 0]


# --- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array, expected",
    [
        (np.full((2, 3), 9, np.uint8), 9),
        (np.full((2, 3, 1), 9, np.uint8), 9),
        (np.full((2, 3, 3), 9, np.int64), 9),
        (np.full((2, 3, 3), 514, np.uint16), 2),
        (np.full((2, 3, 3), 514, ">u2"), 2),
        (np.full((2, 3, 3), 0.2, ">f4"), 51),
        (np.full((2, 3, 3), 0.2, np.float64), 51),
        (np.full((2, 3, 3), 1.0002, np.float32), 255),
        (np.full((2, 3), True), 255),
        (np.full((6, 4, 3), 9, np.uint8)[::3, :3][:, ::-1], 9),
    ],
)
def test_arrays(array, expected):
    image = load_image(array)
    assert image.size == (3, 2)
    assert (pixels(image) == expected).all()


@pytest.mark.parametrize(
    "array, problem",
    [
        (np.zeros((3, 8, 8), np.uint8), "(3, 8, 8)"),
        (np.zeros((8,), np.uint8), "(8,)"),
        (np.zeros((1, 8, 8, 3), np.uint8), "(1, 8, 8, 3)"),
        (np.full((2, 2, 3), 300), "int64 from 300 to 300, expected [0, 255]"),
        (np.full((2, 2, 3), -1), "int64 from -1 to -1, expected [0, 255]"),
        (np.full((2, 2, 3), 128.0), "float64 from 128.0 to 128.0, expected [0, 1]"),
        (np.full((2, 2, 3), np.nan), "float64 from nan to nan, expected [0, 1]"),
        (np.full((2, 2, 3), 1j), "complex"),
        (np.full((2, 2, 3), None), "object"),
    ],
)
def test_arrays_without_a_clear_meaning(array, problem):
    with pytest.raises(ImageError, match=f"row 3: .*{re.escape(problem)}"):
        load_image(array, name="row 3")


@pytest.mark.parametrize(
    "side, size", [(None, (200, 120)), (60, (100, 60)), (30, (50, 30)), (61, (200, 120)), (1, (25, 15))]
)
def test_drafts_keep_the_shorter_side(side, size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8))
    assert load_image(encode(image, "JPEG"), draft_side=side).size == size
    assert load_image(encode(image), draft_side=side).size == (200, 120)  # PNG has no drafts


def test_encode_and_read():
    image = Image.new("RGB", (6, 4), "red")
    assert np.array_equal(load_image(encode(image)), image)
    assert encode(image, "JPEG", quality=5)[:2] == b"\xff\xd8"


# --- images as `datasets` stores them ------------------------------------------------------------------------------


def test_stored_images_keep_the_content_of_files(tmp_path, photo):
    content = encode(photo, "JPEG")
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    for source in (content, bytearray(content), memoryview(content), {"bytes": content, "path": None}):
        assert stored_image(source, "a") == {"bytes": content, "path": None}, type(source)
    for source in (path, str(path), {"bytes": None, "path": str(path)}):
        assert stored_image(source, "a") == encoded_file(source) == {"bytes": content, "path": "photo.jpg"}


def test_stored_pixels_become_png(photo):
    for source in (photo, np.asarray(photo)):
        stored = stored_image(source, "a")
        assert stored["path"] is None and stored["bytes"].startswith(b"\x89PNG")
        assert (pixels(load_image(stored)) == np.asarray(photo)).all()


@pytest.mark.parametrize("source", [b"not an image", "no/such/file.png", {"bytes": None, "path": None}, None])
def test_stored_images_must_be_readable(source):
    with pytest.raises(ImageError, match="row 4: "):
        stored_image(source, "row 4")


def test_encoded_files_are_not_decoded(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    assert encoded_file(tmp_path / "broken.png") == {"bytes": b"not an image", "path": "broken.png"}
    with_both = {"bytes": b"", "path": "elsewhere.png"}
    assert encoded_file(with_both) == with_both
    assert encoded_file(b"abc") == {"bytes": b"abc", "path": None}


@pytest.mark.parametrize("source", ["no/such/file.png", {"bytes": None, "path": "no/such/file.png"}])
def test_encoded_files_that_do_not_exist(source):
    with pytest.raises(ImageError, match="^no/such/file.png: "):
        encoded_file(source)
    with pytest.raises(ImageError, match="^row 4: .*no/such/file.png"):
        encoded_file(source, "row 4")
    with pytest.raises(ImageError, match="row 4: .*NoneType"):
        encoded_file(None, "row 4")
