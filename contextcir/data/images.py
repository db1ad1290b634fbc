"""Read images: bytes, a file or pixels of any mode become an upright RGB image, or an error that names the image.

Pillow alone decodes a 400 kB file into 2 GB, saturates 16-bit grey and turns float TIFF black. It shows the hidden
colours of transparent pixels, and ignores the EXIF orientation. All parts of the library read images through
[`load_image`], so training data, galleries and queries treat such files in the same way. Left out: URLs, colour
profiles, and all frames but the first.
"""

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Raster formats with a clear signature. Pillow's other formats accept almost any file, or start a program (EPS).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# CLIP scales the shorter side to its size and then crops the middle: in between, 1 x 100,000 pixels become
# 336 x 33,600,000 (34 GB), and 1 x 100 become 336 x 33,600 (34 MB). Photographic panoramas are at most about 1:20.
MAX_ASPECT_RATIO = 100

_ORIENTATION_TAG = 0x0112
_PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 262, 0  # of TIFF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """An image that cannot be used. The message names the image and says what is wrong and what to do."""


def load_image(
    source: Any, *, name: str | None = None, max_pixels: int = 50_000_000, draft_side: int | None = None
) -> Image.Image:
    """
    Read one image into upright 8-bit RGB.

    Transparency is composited on white, 16-bit values are scaled to 8 bits, and the EXIF orientation is applied. Grey,
    palette, CMYK and bilevel images are converted.

    Args:
        source (`bytes`, `str`, `os.PathLike`, `np.ndarray`, `PIL.Image.Image` or `dict`):
            The content of an image file; a path; pixels of shape `(height, width)` or `(height, width, channels)` with
            1, 3 or 4 channels, as `uint8` or `uint16` over the whole range, `bool`, floats in [0, 1] or other integers
            in [0, 255]; a Pillow image; or `{"bytes": ..., "path": ...}` as `datasets` stores it.
        name (`str`, *optional*):
            Name of the image in errors, such as a file, a row or a key; by default the path if there is one.
        max_pixels (`int`, *optional*, defaults to 50,000,000):
            Larger images are an error. The header is checked before anything is decoded.
        draft_side (`int`, *optional*):
            Decode a JPEG file at 1/2, 1/4 or 1/8 of its size, as long as its shorter side keeps this many pixels. Much
            faster for large files, and not the same pixels.

    Returns:
        `PIL.Image.Image`: A new image of mode `RGB`.

    Raises:
        [`ImageError`]: The image is missing, empty, truncated, too large, thinner than 1:100 (`MAX_ASPECT_RATIO`), not
            an image, or its values have no clear meaning.
    """
    name, source = name or _default_name(source), unpacked(source)
    if isinstance(source, np.ndarray):
        return _load_array(source, name, max_pixels)
    content = b"" if isinstance(source, Image.Image) else _read(source, name)
    try:
        if isinstance(source, Image.Image):
            return _load_opened(source, name, max_pixels)
        with io.BytesIO(content) as file, Image.open(file, formats=FORMATS) as image:  # reads only the header
            return _load_opened(image, name, max_pixels, draft_side)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's own limits
        raise _too_large(name, str(error), max_pixels) from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: is not an image, or its header is damaged (it starts with {content[:12]!r})."
            f" Readable formats: {', '.join(FORMATS)}."
        ) from error
    except Exception as error:  # Pillow raises zlib.error, struct.error, KeyError and more for damaged files
        raise ImageError(
            f"{name}: cannot be decoded ({type(error).__name__}: {error}). Replace the truncated or damaged file."
        ) from error


def unpacked(source: Any) -> Any:
    """Return the bytes of `{"bytes": ..., "path": ...}`, or its path if there are none. Return other sources as
    given."""
    if not isinstance(source, dict):
        return source
    return source["bytes"] if source.get("bytes") is not None else source.get("path")


def encode_image(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Encode an image as a file in memory, with Pillow's `options` such as `quality`."""
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


def data_uri(image: Image.Image, max_side: int) -> str:
    """Encode an image, reduced to a longer side of `max_side` pixels, as a JPEG inside a `data:` URI."""
    small = image.copy()
    small.thumbnail((max_side, max_side))
    return "data:image/jpeg;base64," + base64.b64encode(encode_image(small, "JPEG", quality=85)).decode()


def stored_image(source: Any, name: str) -> dict[str, Any]:
    """
    Check that an image can be read, and return it as `datasets` stores it.

    Args:
        source: As for [`load_image`].
        name (`str`): Name of the image in errors.

    Returns:
        `dict`: `bytes` and `path`. The content of a file is kept byte for byte; pixels become PNG.

    Raises:
        [`ImageError`]: The image cannot be read.
    """
    image, content = load_image(source, name=name), unpacked(source)
    return encoded_file(encode_image(image) if isinstance(content, (np.ndarray, Image.Image)) else content, name)


def encoded_file(source: Any, name: str | None = None) -> dict[str, Any]:
    """
    Return an encoded image as `datasets` stores it, without decoding it.

    Args:
        source (`bytes`, `str`, `os.PathLike` or `dict`): The content of a file, a path, or a `dict` of both, of which
            the bytes take precedence.
        name (`str`, *optional*): As for [`load_image`].

    Returns:
        `dict`: `bytes` and `path`.

    Raises:
        [`ImageError`]: There is no such file, or it is empty.
    """
    if isinstance(source, dict) and source.get("bytes") is not None:
        return source
    content = unpacked(source)
    path = Path(content).name if isinstance(content, (str, os.PathLike)) else None
    return {"bytes": _read(content, name or _default_name(source)), "path": path}


def is_url(source: Any) -> bool:
    """Return whether an image is given by an `http` or `https` URL."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def _default_name(source: Any) -> str:
    path = source.get("path") if isinstance(source, dict) else source
    return str(path) if isinstance(path, (str, os.PathLike)) else f"the image ({type(unpacked(source)).__name__})"


def _read(source: Any, name: str) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    elif is_url(source):
        raise ImageError(f"{name}: is a URL ({source[:80]}). Download it and pass the file or its bytes.")
    elif isinstance(source, (str, os.PathLike)):
        try:
            with open(source, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            raise ImageError(f"{name}: no such file. Check the path ({os.fspath(source)!r}).") from None
        except (OSError, ValueError) as error:  # a folder, no permission, a null character in the path
            raise ImageError(f"{name}: cannot be read ({error}). Check the path and its permissions.") from error
    else:
        raise ImageError(
            f"{name}: got {type(source).__name__}, expected bytes, a path, a numpy array, a Pillow image or"
            ' {"bytes": ..., "path": ...} with one of the two set.'
        )
    if not content:
        raise ImageError(f"{name}: is empty (0 bytes). Write or download it again.")
    return content


def _load_opened(image: Image.Image, name: str, max_pixels: int, draft_side: int | None = None) -> Image.Image:
    _check_size(image.width, image.height, name, max_pixels)
    if draft_side is not None and image.format == "JPEG":
        scale = draft_side / min(image.size)
        image.draft(None, (round(image.width * scale), round(image.height * scale)))  # type: ignore[arg-type]
    _check_transparent_colour(image, name)
    image.load()
    orientation = _orientation(image)
    image = _to_rgb(image, name)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _load_array(array: np.ndarray, name: str, max_pixels: int) -> Image.Image:
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if not grey and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise ImageError(
            f"{name}: got an array of shape {array.shape}, expected (height, width) or (height, width, channels)"
            " with 1, 3 or 4 channels. Move the channels last."
        )
    _check_size(array.shape[1], array.shape[0], name, max_pixels)
    array = _to_uint8(array, name)
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array.reshape(array.shape[:2]) if grey else array)), name)


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: has no pixels ({width} x {height}).")
    if width * height > max_pixels:
        raise _too_large(name, f"{width} x {height} pixels", max_pixels)
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ImageError(
            f"{name}: is too thin ({width} x {height} pixels; at most 1:{MAX_ASPECT_RATIO}). Crop or split it."
        )


def _check_transparent_colour(image: Image.Image, name: str) -> None:
    """Refuse PNG files whose pixels Pillow scales to 8 bits, but not the colour that means "transparent". That colour
    then matches other pixels, unless it is grey 0. Call this before the pixels are loaded."""
    depths = [tile[3] for tile in getattr(image, "tile", []) if tile[3] in ("RGB;16B", "L;2", "L;4")]
    if depths and image.info.get("transparency") not in (None, 0):
        raise ImageError(
            f"{name}: has pixels of depth {depths[0]} with a transparent colour, which Pillow cannot read together."
            " Save it with an alpha channel."
        )


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata, intact pixels: the orientation is unknown
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # `convert` would clip these at 255
        # Pillow opens 16-bit grey as I;16, or as I (32 bits) for formats with at most 16 bits.
        values = np.asarray(image)
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:
            values = (1 if image.mode == "F" else 65535) - values  # Pillow does this up to 8 bits only
        if image.mode != "F":
            _check_range(values, 65535, name)
            values = values.astype(np.uint16)
        grey = Image.fromarray(_to_uint8(values, name))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):  # PNG: one grey value means "transparent"
            grey.paste(255, mask=Image.fromarray(np.asarray(image) == transparent))
        image = grey
    if image.mode == "La":  # premultiplied grey, which Pillow cannot convert to RGBA directly
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """Convert pixels of shape `(height, width[, channels])` from the conventional range of their type to `uint8`."""
    if values.dtype == np.uint8:
        return values
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257, rounded to nearest
    if values.dtype.kind not in "iuf":
        raise ImageError(f"{name}: got pixels of type {values.dtype}, expected integers, floats or booleans.")
    if values.dtype.kind == "f":
        _check_range(values, 1, name, tolerance=1e-3)  # resampling overshoots the range slightly
        return (values.clip(0, 1) * 255).round().astype(np.uint8)
    _check_range(values, 255, name)
    return values.astype(np.uint8)


def _check_range(values: np.ndarray, highest: int, name: str, tolerance: float = 0) -> None:
    low, high = values.min(), values.max()
    if not (low >= -tolerance and high <= highest + tolerance):  # NaN fails both comparisons
        raise ImageError(
            f"{name}: holds {values.dtype} from {low} to {high}, expected [0, {highest}]. Rescale the values, or"
            " convert them to uint8 or uint16."
        )


def _too_large(name: str, size: str, max_pixels: int) -> ImageError:
    return ImageError(f"{name}: is too large ({size}; at most {max_pixels:,} pixels). Scale it down.")
