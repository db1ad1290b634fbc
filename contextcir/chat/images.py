"""What of an image goes to a chat server: its own bytes where any server can read them, else a JPEG of bounded size.

Every image passes [`load_image`] first, so that a damaged file, a bomb or a picture that lies on its side never
reaches a server. A plain JPEG or PNG within the bounds is then sent as it is: encoding it again would blur it for
nothing. Left out: anything but a base64 data URL, since a server that fetches an address by itself is another kind of
trust.
"""

import base64
import hashlib
import re

from PIL import Image

from contextcir.data.images import encode_image, load_image, unpacked

MAX_BYTES = 4_000_000  # of a file that is sent as it is; 1024 x 1024 RGB as PNG stays below
JPEG_QUALITY = 90

_JPEG_RGB = re.compile(rb"\xff[\xc0-\xc2]\x00\x11\x08.{4}\x03", re.DOTALL)  # the frame header of three 8-bit channels
_PNG_RGB = re.compile(rb"\x89PNG\r\n\x1a\n.{16}\x08\x02", re.DOTALL)  # 8 bits, colour without alpha


def image_content(source) -> bytes | Image.Image:
    """
    What an image consists of, without decoding anything.

    Args:
        source: Whatever [`load_image`] reads.

    Returns:
        `bytes` of a file, or the RGB `PIL.Image.Image` that the loader makes of pixels.

    Raises:
        [`~contextcir.data.images.ImageError`]: The file cannot be read.
    """
    source = unpacked(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    try:
        with open(source, "rb") as file:
            return file.read()
    except (OSError, TypeError, ValueError):  # pixels, or a file with a fault that the loader has words for
        return load_image(source)  # a palette and an orientation are part of what it shows


def image_digest(source) -> bytes:
    """SHA-256 of what an image consists of: the bytes of a file whatever its name, or size and pixels."""
    content = image_content(source)
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    return hashlib.sha256(f"{content.size} ".encode() + content.tobytes()).digest()


def image_url(source, max_side: int) -> str:
    """
    An image as a base64 data URL.

    Args:
        source: Whatever [`load_image`] reads.
        max_side (`int`): In pixels; images with a longer side are scaled down to it.

    Raises:
        [`~contextcir.data.images.ImageError`]: The image cannot be used.
    """
    content = image_content(source)
    image = load_image(content, name=_name(source))
    if max(image.size) <= max_side and isinstance(content, bytes) and (kind := _plain_format(content)):
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    content = encode_image(image, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def _name(source) -> str | None:
    path = source.get("path") if isinstance(source, dict) else source
    return str(path) if isinstance(path, str) or hasattr(path, "__fspath__") else None


def _plain_format(content: bytes) -> str | None:
    """The format of a file that every server shows alike: upright, without transparency, not CMYK. EXIF data may turn
    an image, and tell where and when it was taken: such a file is encoded again, without them."""
    if len(content) > MAX_BYTES:
        return None
    if content.startswith(b"\xff\xd8\xff"):
        plain = _JPEG_RGB.search(content) and b"Exif\0\0" not in content and b"Adobe" not in content
        return "jpeg" if plain else None
    plain = _PNG_RGB.match(content) and b"tRNS" not in content and b"eXIf" not in content
    return "png" if plain else None
