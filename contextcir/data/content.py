"""The content of an image: its bytes, without decoding, and the digest that identifies it whatever its name."""

import hashlib
import os
from typing import Any

from PIL import Image

from contextcir.data.image_files import read_file
from contextcir.data.images import is_url, load_image, unpacked


def image_content(source: Any) -> bytes | Image.Image:
    """
    Read the content of an image. Decodes no file.

    Args:
        source: Anything that [`load_image`] reads.

    Returns:
        `bytes` of a file, or the RGB `PIL.Image.Image` of an image that is given as pixels.

    Raises:
        [`~contextcir.data.images.ImageError`]: The file cannot be read.
    """
    source = unpacked(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, (str, os.PathLike)) and not is_url(source):
        return read_file(source, str(source))
    return load_image(source)  # applies a palette and an orientation


def image_digest(source: Any) -> bytes:
    """Return the SHA-256 of an image's content: the bytes of a file (not its name), or size and pixels."""
    return content_digest(image_content(source))


def content_digest(content: bytes | Image.Image) -> bytes:
    """Return the SHA-256 of what [`image_content`] returned."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    return hashlib.sha256(f"{content.size} ".encode() + content.tobytes()).digest()
