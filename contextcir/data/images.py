"""The one image intake: bytes, a file or pixels in any mode -> an upright RGB image, or an error that names the image.

Pillow alone decodes a 400 kB file into 2 GB, saturates 16-bit grey, blackens float TIFF, shows the hidden colours of
transparent pixels and ignores the EXIF orientation. Every part of the library reads images through [`load_image`], so
that training data, a gallery and a query treat such a file alike. Left out: fetching URLs, colour profiles, and all
frames but the first.
"""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

# Raster formats with a clear signature. Others that Pillow knows guess from anything, or start a program (EPS).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# CLIP scales the shorter side to its size and then cuts out the middle: on the way, 1 x 100,000 pixels would become
# 336 x 33,600,000 (34 GB), and 1 x 100 become 336 x 33,600 (34 MB). Panoramas of photographs are at most about 1:20.
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
    """An image that cannot be used; the message names it and says what is wrong and what to do."""


def load_image(source, *, name: str | None = None, max_pixels: int = 50_000_000) -> Image.Image:
    """
    Read one image, whatever it comes as, into upright 8-bit RGB.

    Transparency is composited on white, 16-bit values are scaled to 8 bits, and the EXIF orientation is applied. Grey,
    palette, CMYK and bilevel images are converted.

    Args:
        source (`bytes`, `str`, `os.PathLike`, `np.ndarray`, `PIL.Image.Image` or `dict`):
            The content of an image file; a path; pixels of shape `(height, width)` or `(height, width, channels)` with
            1, 3 or 4 channels, as `uint8` or `uint16` over the whole range, `bool`, floats in [0, 1] or other integers
            in [0, 255]; a Pillow image; or `{"bytes": ..., "path": ...}` as a `datasets.Image(decode=False)` column
            gives.
        name (`str`, *optional*):
            What an error calls the image, such as a file, a row or a key. By default the path, where there is one.
        max_pixels (`int`, *optional*, defaults to 50,000,000):
            Larger images are refused on their header, before anything is decoded.

    Returns:
        `PIL.Image.Image`: A new image of mode `RGB`, never the caller's own.

    Raises:
        [`ImageError`]: The image is missing, empty, truncated, too large, thinner than 1:100 (`MAX_ASPECT_RATIO`), not
            an image, or its values have no clear meaning.
    """
    if isinstance(source, dict):
        name = name or source.get("path")
        source = unpacked(source)
    if name is None:
        name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else f"the image ({type(source).__name__})"

    if isinstance(source, np.ndarray):
        return _load_array(source, name, max_pixels)
    if isinstance(source, Image.Image):
        return _load_opened(source, name, max_pixels)
    with io.BytesIO(_read(source, name)) as file, _open(file, name, max_pixels) as image:
        return _load_opened(image, name, max_pixels)


def unpacked(source):
    """The bytes of a `{"bytes": ..., "path": ...}`, or the path where there are none; any other source as it is."""
    if not isinstance(source, dict):
        return source
    return source["bytes"] if source.get("bytes") is not None else source.get("path")


def images_in(folder: str | os.PathLike) -> list[str]:
    """
    The image files in a folder and the folders inside, by their suffixes, hidden ones left out.

    Returns:
        `list[str]`: Paths from that folder on, with `/`, in order.

    Raises:
        `ValueError`: There is none.
    """
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    root = Path(folder)
    names = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    ]
    if not names:
        raise ValueError(f"{root} holds no images ({', '.join(sorted(suffixes))}). Check the path.")
    return sorted(names)


def encode_image(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """The content of an image file; `options` are Pillow's, such as `quality`."""
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


def stored_image(source, name: str) -> dict:
    """
    An image as `datasets` stores it, once it is known that it can be read.

    Args:
        source: As for [`load_image`].
        name (`str`): What errors call it.

    Returns:
        `dict`: `bytes` and `path`. The content of a file stays as it is, byte for byte; anything else becomes PNG.

    Raises:
        [`ImageError`]: It cannot be read.
    """
    image, source = load_image(source, name=name), unpacked(source)
    if isinstance(source, str | os.PathLike):
        return {"bytes": Path(source).read_bytes(), "path": Path(source).name}
    return {"bytes": source if isinstance(source, bytes) else encode_image(image), "path": None}


def encoded_file(source) -> dict:
    """The `bytes` and `path` of an image as `datasets` stores it, read from its file where only the path is stored.
    Decodes nothing."""
    if isinstance(source, dict) and source["bytes"] is not None:
        return source
    path = Path(source["path"] if isinstance(source, dict) else source)
    return {"bytes": path.read_bytes(), "path": path.name}


def is_url(source) -> bool:
    """Whether an image is given by its address on the web."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def _read(source, name: str) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    elif is_url(source):
        raise ImageError(f"{name}: is a URL. Download it first and pass the file or its bytes.")
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


def _open(file: io.BytesIO, name: str, max_pixels: int) -> Image.Image:
    """Read the header only. Beyond 89 Mpx Pillow warns (or raises, as it is told) on its own; beyond 179 it raises."""
    try:
        return Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, str(error), max_pixels) from error
    except Image.UnidentifiedImageError as error:
        start = file.getvalue()[:12]
        raise ImageError(
            f"{name}: is not an image, or its header is damaged (it starts with {start!r})."
            f" Readable formats: {', '.join(FORMATS)}."
        ) from error
    except Exception as error:  # on damaged headers Pillow raises zlib.error, struct.error, KeyError and more
        raise _damaged(name, error) from error


def _load_opened(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    _check_size(image.width, image.height, name, max_pixels)
    _check_transparent_colour(image, name)
    try:
        image.load()
        orientation = _orientation(image)
        image = _to_rgb(image, name)
    except ImageError:
        raise
    except Exception as error:  # see _open: decoders raise whatever they stumble over
        raise _damaged(name, error) from error
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
            f"{name}: is too thin ({width} x {height} pixels; at most 1:{MAX_ASPECT_RATIO}). Crop it or cut it up."
        )


def _check_transparent_colour(image: Image.Image, name: str) -> None:
    """Of these PNG, Pillow brings the pixels to 8 bits, but leaves the colour that stands for "transparent" in the
    depth of the file, where it means another one, unless it is grey 0. To be called before the pixels are loaded."""
    depths = [tile[3] for tile in getattr(image, "tile", []) if tile[3] in ("RGB;16B", "L;2", "L;4")]
    if depths and image.info.get("transparency") not in (None, 0):
        raise ImageError(
            f"{name}: has pixels of depth {depths[0]} with a transparent colour, which Pillow cannot read together."
            " Save it with an alpha channel."
        )


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata beside whole pixels: an image without a known orientation
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # `convert` would clip these at 255
        # Pillow opens 16-bit grey as I;16, and as I (32 bits) where a format holds no more than 16.
        values = np.asarray(image)
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:
            values = (1 if image.mode == "F" else 65535) - values  # Pillow does so up to 8 bits only
        values = _to_uint8(values if image.mode == "F" else _as_uint16(values, name), name)
        grey = Image.fromarray(values)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):  # PNG: one grey value stands for "transparent"
            grey.paste(255, mask=Image.fromarray(np.asarray(image) == transparent))
        image = grey
    if image.mode == "La":  # premultiplied grey: the only mode with transparency that has no way to RGBA
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _as_uint16(values: np.ndarray, name: str) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name}: holds integers from {values.min()} to {values.max()}, expected 16-bit values (0 to 65535)."
            " Rescale it."
        )
    return values.astype(np.uint16)


def _to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """`(height, width[, channels])` of any real type -> `uint8`, over the range that the type has by convention."""
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
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        # NaN fails both comparisons. Resampling leaves a hair beyond the range, which is rounded away.
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise ImageError(
                f"{name}: holds floats from {low} to {high}, expected [0, 1] and no NaN."
                " Rescale them, or convert them to uint8."
            )
        return (values.clip(0, 1) * 255).round().astype(np.uint8)
    if low < 0 or high > 255:
        raise ImageError(f"{name}: holds {values.dtype} from {low} to {high}, expected [0, 255] (or uint16 pixels).")
    return values.astype(np.uint8)


def _too_large(name: str, size: str, max_pixels: int) -> ImageError:
    return ImageError(f"{name}: is too large ({size}; at most {max_pixels:,} pixels). Scale it down.")


def _damaged(name: str, error: Exception) -> ImageError:
    return ImageError(
        f"{name}: cannot be decoded ({type(error).__name__}: {error}). The file is truncated or damaged; replace it."
    )
