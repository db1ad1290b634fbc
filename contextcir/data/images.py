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

from contextcir.data.image_files import read_file
from contextcir.data.pixels import MAX_PIXELS, ImageError, check_size, rgb_of_array, too_large, upright_rgb

__all__ = ["FORMATS", "ImageError", "load_image"]

try:  # decodes only, so that its wheel has LGPL libraries; that of pillow-heif has x265 as well, which is GPL
    from pi_heif import register_heif_opener
except ImportError:
    HEIF: tuple[str, ...] = ()
else:
    register_heif_opener()
    HEIF = ("HEIF",)
# Raster formats with a clear signature. Pillow's other formats accept almost any file, or start a program (EPS).
FORMATS = ("AVIF", "BMP", "GIF", *HEIF, "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # at the 8th byte


def load_image(
    source: Any, *, name: str | None = None, max_pixels: int = MAX_PIXELS, draft_side: int | None = None
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
        `PIL.Image.Image`: A new image of mode `RGB`, without metadata.

    Raises:
        [`ImageError`]: The image is missing, no regular file (a pipe, a device), empty, truncated, too large, thinner
            than 1:100, not an image, or its values have no clear meaning.
    """
    name, source = name or _default_name(source), unpacked(source)
    if isinstance(source, np.ndarray):
        return rgb_of_array(source, name, max_pixels)
    content = b"" if isinstance(source, Image.Image) else _read(source, name)
    try:
        if isinstance(source, Image.Image):
            return upright_rgb(source, name, max_pixels)
        with io.BytesIO(content) as file, Image.open(file, formats=FORMATS) as image:  # reads only the header
            check_size(image.width, image.height, name, max_pixels)
            if draft_side is not None and image.format == "JPEG":
                scale = draft_side / min(image.size)
                image.draft(None, (round(image.width * scale), round(image.height * scale)))  # type: ignore[arg-type]
            return upright_rgb(image, name, max_pixels)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's own limits
        raise too_large(name, str(error), max_pixels) from error
    except Image.UnidentifiedImageError as error:
        if not HEIF and content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS:
            raise ImageError(f"{name}: is a HEIC image. To read these: pip install contextcir[heif].") from error
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
        content = read_file(source, name)
    else:
        raise ImageError(
            f"{name}: got {type(source).__name__}, expected bytes, a path, a numpy array, a Pillow image or"
            ' {"bytes": ..., "path": ...} with one of the two set.'
        )
    if not content:
        raise ImageError(f"{name}: is empty (0 bytes). Write or download it again.")
    return content
