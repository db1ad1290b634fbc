"""Every row of the list of bad images: read as a person sees it, or refused with an error that names it."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from contextcir.data.images import ImageError, encode_image, images_in, load_image

COLOURS = np.array(  # four corners that tell every rotation and flip apart
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 0], [0, 255, 255], [255, 0, 255]]], dtype=np.uint8
)


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image)


def raw_png(width, height, depth, colours, row=b"", transparent=None):
    """A PNG chunk by chunk, for what Pillow does not write; `colours` is 0 for grey, 2 for RGB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    if transparent is not None:
        header += chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row and b"\0" + row)) + chunk(b"IEND", b"")


def png_header(width, height):
    """A PNG that claims a size and holds no pixels: whatever decodes it fails."""
    return raw_png(width, height, 8, 2)


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


# --- where it comes from ---------------------------------------------------------------------------------------------


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


def test_the_callers_image_is_neither_changed_nor_shared(photo):
    before = photo.copy()
    loaded = load_image(photo)
    loaded.putpixel((0, 0), (1, 2, 3))
    assert photo == before


@pytest.mark.parametrize(
    "source, problem",
    [
        (None, "NoneType"),
        (3, "int"),
        ({"bytes": None, "path": None}, "NoneType"),
        ({}, "NoneType"),
        (b"", "empty"),
        ({"bytes": b"", "path": "x.png"}, "empty"),
        ("https://example.org/a.png", "URL"),
        ("no/such/file.png", "no such file"),
        ("a\0b.png", "cannot be read"),
    ],
)
def test_a_source_that_is_no_image_is_named(source, problem):
    with pytest.raises(ImageError, match=f"row 7: .*{problem}"):
        load_image(source, name="row 7")


def test_the_path_is_the_name_where_none_is_given(tmp_path):
    (tmp_path / "empty.jpg").touch()
    for source in (tmp_path / "empty.jpg", {"bytes": b"", "path": str(tmp_path / "empty.jpg")}):
        with pytest.raises(ImageError, match="empty.jpg: is empty"):
            load_image(source)
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(tmp_path)  # a folder


# --- files that are not what they claim ------------------------------------------------------------------------------


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
    with pytest.raises(ImageError, match="not an image"):
        load_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


def test_damaged_pixel_data(photo):
    content = bytearray(encode(photo))
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    with pytest.raises(ImageError, match="cannot be decoded"):
        load_image(bytes(content))


def test_a_decompressed_text_bomb_is_an_image_error(photo):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    with pytest.raises(ImageError, match="cannot be decoded"):
        load_image(encode(photo, pnginfo=info))


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7100, 7100), (10_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_oversized_is_refused_on_the_header(size, action):
    # The file holds no pixels, so anything that started to decode it would complain of truncation. 7,100^2 is below
    # Pillow's own warning, 10,000^2 above the warning and 20,000^2 above its error.
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(ImageError, match="key 'big': is too large"):
            load_image(png_header(*size), name="key 'big'")


def test_the_limit_is_an_argument_and_holds_for_pixels_in_memory(photo):
    assert load_image(photo, max_pixels=48 * 64).size == (64, 48)
    for source in (photo, np.asarray(photo), encode(photo)):
        with pytest.raises(ImageError, match="64 x 48 pixels; at most 3,071"):
            load_image(source, max_pixels=48 * 64 - 1)
    with pytest.raises(ImageError, match="too large"):
        load_image(np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)))


@pytest.mark.parametrize("size", [(1, 101), (101, 1), (1, 100_000), (10_001, 100)])
def test_too_thin_is_refused_on_the_header(size):
    with pytest.raises(ImageError, match=f"key 'strip': is too thin .{size[0]} x {size[1]} pixels; at most 1:100"):
        load_image(png_header(*size), name="key 'strip'")


def test_thin_but_not_too_thin():
    for source in (np.zeros((100, 1, 3), np.uint8), Image.new("RGB", (200, 2))):
        assert load_image(source).size in {(1, 100), (200, 2)}
    with pytest.raises(ImageError, match="too thin"):
        load_image(np.zeros((101, 1, 3), np.uint8))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_one_pixel(format):
    image = load_image(encode(Image.new("RGB", (1, 1), "white"), format))
    assert pixels(image).tolist() == [[[255, 255, 255]]]


def test_no_pixel():
    with pytest.raises(ImageError, match="no pixels"):
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
    for values in ([[0, 70_000]], [[-1, 5]]):
        with pytest.raises(ImageError, match="scan.tiff: holds integers from"):
            load_image(encode(Image.fromarray(np.array(values, dtype=np.int32)), "TIFF"), name="scan.tiff")


def test_float_tiff():
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert pixels(load_image(encode(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]
    for bad in (values * 255, values - 1, np.full((2, 2), np.nan, np.float32), np.full((2, 2), np.inf, np.float32)):
        with pytest.raises(ImageError, match="depth.tiff: holds floats from"):
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

    premultiplied = Image.frombytes("La", (2, 1), bytes([10, 51, 100, 255]))  # 50 of which a fifth is seen, and 100
    assert pixels(load_image(premultiplied))[0, :, 0].tolist() == [214, 100]

    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 255, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    for transparency in (0, b"\x00\xff"):
        assert pixels(load_image(encode(palette, transparency=transparency)))[0].tolist() == [[255] * 3, [255, 0, 0]]
    rgb = encode(Image.fromarray(COLOURS), transparency=(0, 255, 0))
    assert pixels(load_image(rgb))[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]


def test_a_transparent_colour_that_pillow_misreads_is_refused():
    row = struct.pack(">6H", 1000, 2000, 3000, 1001, 2001, 3001)  # after Pillow's 8 bits the two are the same
    assert pixels(load_image(raw_png(2, 1, 16, 2, row))).tolist() == [[[3, 7, 11]] * 2]
    grey = bytes([0b00011011])  # 0, 1, 2, 3 of two bits
    assert pixels(load_image(raw_png(4, 1, 2, 0, grey)))[0, :, 0].tolist() == [0, 85, 170, 255]
    assert pixels(load_image(raw_png(4, 1, 2, 0, grey, transparent=[0])))[0, :, 0].tolist() == [255, 85, 170, 255]
    for content in (raw_png(2, 1, 16, 2, row, [1000, 2000, 3000]), raw_png(4, 1, 2, 0, grey, [1])):
        with pytest.raises(ImageError, match="key 'a': has pixels of depth .* with a transparent colour"):
            load_image(content, name="key 'a'")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(orientation, format):
    upright = Image.fromarray(COLOURS)
    stored = {  # how the camera holds the pixels for each orientation: the inverse of what a viewer does
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
    assert (pixels(load_image(encode(image, format, exif=exif))) == np.asarray(upright)).all()


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
        (np.zeros((3, 8, 8), np.uint8), "channels last"),
        (np.zeros((8,), np.uint8), "shape"),
        (np.zeros((1, 8, 8, 3), np.uint8), "shape"),
        (np.full((2, 2, 3), 300), "from 300 to 300"),
        (np.full((2, 2, 3), -1), "from -1 to -1"),
        (np.full((2, 2, 3), 128.0), "expected \\[0, 1\\]"),
        (np.full((2, 2, 3), np.nan), "NaN"),
        (np.full((2, 2, 3), 1j), "complex"),
        (np.full((2, 2, 3), None), "object"),
    ],
)
def test_arrays_without_a_clear_meaning(array, problem):
    with pytest.raises(ImageError, match=f"row 3: .*{problem}"):
        load_image(array, name="row 3")


def test_images_in_a_folder(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/2.PNG", "b/1.jpg", "a.webp", "c.jfif", ".hidden.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    assert images_in(tmp_path) == ["a.webp", "b/1.jpg", "b/2.PNG", "c.jfif"]
    with pytest.raises(ValueError, match=r"holds no images \(.apng, .*\). Check the path"):
        images_in(tmp_path / "c")


def test_encoded_and_read_again():
    image = Image.new("RGB", (6, 4), "red")
    assert np.array_equal(load_image(encode_image(image)), image)
    assert encode_image(image, "JPEG", quality=5)[:2] == b"\xff\xd8"
