"""Encode images for a chat server: a plain file as it is, anything else as a JPEG of bounded size.

Every image is read by [`load_image`] first, so damaged files, decompression bombs and rotated pictures never reach a
server. A plain JPEG or PNG within the bounds is sent unchanged: encoding it again would lose quality for nothing.
Left out: image URLs, since a server that fetches addresses needs a different kind of trust.
"""

import base64
import os
import re
from typing import Any

from PIL import Image

from contextcir.data.content import image_content
from contextcir.data.images import encode_image, load_image

MAX_BYTES = 4_000_000  # of a file that is sent as it is; 1024 x 1024 RGB as PNG stays below
JPEG_QUALITY = 90

_JPEG_RGB = re.compile(rb"\xff[\xc0-\xc2]\x00\x11\x08.{4}\x03", re.DOTALL)  # the frame header of three 8-bit channels
_PNG_RGB = re.compile(rb"\x89PNG\r\n\x1a\n.{16}\x08\x02", re.DOTALL)  # 8 bits, colour without alpha


def image_url(source: Any, max_side: int, *, smaller: bool = False) -> str:
    """
    Encode an image as a base64 data URL.

    Args:
        source: Anything that [`load_image`] reads.
        max_side (`int`): In pixels; images with a longer side are scaled down to it.
        smaller (`bool`, defaults to `False`): Whether to halve the sides after that, for a server that rejects the
            image because of its size.

    Raises:
        [`~contextcir.data.images.ImageError`]: The image cannot be used.
    """
    content = image_content(source)
    path = source.get("path") if isinstance(source, dict) else source
    image = load_image(content, name=str(path) if isinstance(path, (str, os.PathLike)) else None)
    side = min(max_side, max(image.size))
    if smaller:
        side = max(1, side // 2)
    if isinstance(content, bytes) and max(image.size) <= side and (kind := _plain_format(content)):
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    content = encode_image(image, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def _plain_format(content: bytes) -> str | None:
    """
    Return the format of a file that every server decodes in the same way: upright, without transparency, not CMYK.

    Files with EXIF data are encoded again: it may rotate the image, and reveal where and when it was taken.
    """
    if len(content) > MAX_BYTES:
        return None
    if content.startswith(b"\xff\xd8\xff"):
        plain = _JPEG_RGB.search(content) and b"Exif\0\0" not in content and b"Adobe" not in content
        return "jpeg" if plain else None
    plain = _PNG_RGB.match(content) and b"tRNS" not in content and b"eXIf" not in content
    return "png" if plain else None
