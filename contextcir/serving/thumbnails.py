"""Small pictures of the gallery: pixels alone, without EXIF, comments or profiles, and kept for a while."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from PIL import Image

from contextcir.data.images import encode_image
from contextcir.retrieval.store.gallery import StoredGallery

SIZES = (128, 256, 512, 1024)  # of the longer side
KEPT_BYTES = 64 << 20


@dataclass(frozen=True)
class Thumbnail:
    """
    A small picture.

    Args:
        content (`bytes`): A JPEG.
        etag (`str`): Its digest, as HTTP quotes it.
    """

    content: bytes
    etag: str


class Thumbnails:
    """
    Make thumbnails, and keep those that were asked for last.

    Args:
        kept_bytes (`int`): Most bytes to keep.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES):
        self.kept_bytes, self._bytes = kept_bytes, 0
        self._kept: OrderedDict[tuple[int, str, int], Thumbnail] = OrderedDict()
        self._lock = Lock()

    def kept(self, gallery: StoredGallery, id_: str, size: int) -> Thumbnail | None:
        """Return a thumbnail if it has been made before."""
        key = (gallery.manifest.generation, id_, size)
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def make(self, gallery: StoredGallery, id_: str, size: int) -> Thumbnail:
        """Make a thumbnail of an image of a gallery, whose longer side has at most `size` pixels. Raises an
        `ImageError` if the image cannot be read any more."""
        content = thumbnail(gallery.image(id_), size)
        made = Thumbnail(content, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
        key = (gallery.manifest.generation, id_, size)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += len(content)
            while self._bytes > self.kept_bytes:
                self._bytes -= len(self._kept.popitem(last=False)[1].content)
        return made


def thumbnail(image: Image.Image, size: int, quality: int = 85) -> bytes:
    """Encode a smaller copy of an RGB image as JPEG, with nothing but its pixels."""
    image = image.copy()
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    image.info.clear()  # Pillow would write a comment that the file had
    return encode_image(image, "JPEG", quality=quality, optimize=True)
