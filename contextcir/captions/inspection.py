"""A look at the images of a pair before anybody is paid to describe them: can they be read, are they two, are they
free?

Each image is read once, however many pairs it is in, and nothing but its digest is kept.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contextcir.captions.leakage import HeldOut
from contextcir.data.images import ImageError, is_url, load_image
from contextcir.data.pairs import Pair

THREADS = 2  # a photograph takes up to 150 MB while it is decoded


@dataclass(frozen=True)
class _Look:
    digest: bytes = b""  # of the pixels: the same picture as PNG and as BMP is the same
    unreadable: str = ""
    held_out: str | None = None


class Inspector:
    """
    Looks at the images of pairs.

    Args:
        held_out ([`HeldOut`], *optional*): Test images that no pair may show.
        fetch (`Callable[[str], bytes]`, *optional*): Downloads a URL or raises an `ImageError`.
        folder (`str` or `os.PathLike`, *optional*): Where downloaded images are kept; needed with `fetch`.
    """

    def __init__(
        self,
        held_out: HeldOut | None = None,
        fetch: Callable[[str], bytes] | None = None,
        folder: str | os.PathLike | None = None,
    ):
        self._held_out, self._fetch, self._folder = held_out, fetch, Path(folder) if folder else None
        self._pool = ThreadPoolExecutor(THREADS)
        self._looks: dict[str, _Look] = {}

    async def inspect(self, pair: Pair) -> tuple[Pair, tuple[str, str] | None]:
        """
        Look at both images of a pair.

        Args:
            pair ([`~contextcir.data.pairs.Pair`]): May hold URLs.

        Returns:
            `tuple[Pair, tuple[str, str] or None]`: The pair with its images on disk, and reason and detail where it
            must not be used: `unreadable_image`, `identical_images` or `test_image`.
        """
        here = self.local(pair)
        looks = [
            await self._look_once(id_, source, url if is_url(url) else None)
            for id_, source, url in (
                (pair.reference_id, here.reference_image, pair.reference_image),
                (pair.target_id, here.target_image, pair.target_image),
            )
        ]
        for look in looks:
            if look.unreadable:
                return here, ("unreadable_image", look.unreadable)
            if look.held_out:
                return here, ("test_image", f"shows the test image {look.held_out}")
        if looks[0].digest == looks[1].digest:
            return here, ("identical_images", f"{pair.reference_id} and {pair.target_id} show the same")
        return here, None

    def local(self, pair: Pair) -> Pair:
        """The pair with the places on disk of images that are given by their URLs, there or not."""
        places = {
            name: self._folder / hashlib.sha256(source.encode()).hexdigest()[:32]
            for name, source in (("reference_image", pair.reference_image), ("target_image", pair.target_image))
            if is_url(source) and self._folder
        }
        return replace(pair, **places) if places else pair

    def close(self) -> None:
        """Wait for no image that is still to be read."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _look_once(self, image_id: str, source: Any, url: str | None) -> _Look:
        if image_id not in self._looks:  # kept before it is there: pairs in flight share images
            loop = asyncio.get_running_loop()
            self._looks[image_id] = loop.run_in_executor(self._pool, self._look, image_id, source, url)
        return await asyncio.shield(self._looks[image_id])

    def _look(self, image_id: str, source: Any, url: str | None) -> _Look:
        try:
            if url and not Path(source).exists():
                self._download(url, Path(source))
            image = load_image(source, name=image_id)
        except ImageError as error:
            return _Look(unreadable=str(error))
        digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()
        return _Look(digest, held_out=self._held_out.find(image_id, image) if self._held_out else None)

    def _download(self, url: str, path: Path) -> None:
        if self._fetch is None:
            raise ImageError(f"{url}: is a URL, and downloads were not allowed. Allow them, or give a file.")
        content = self._fetch(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(content)
        unfinished.replace(path)
