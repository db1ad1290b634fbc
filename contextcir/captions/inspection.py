"""Check the images of a pair before a model is paid to describe them.

Each image is read once, however many pairs it is in, and only its digest is kept.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from contextcir.captions.leakage import HeldOut
from contextcir.data.images import ImageError, is_url, load_image
from contextcir.data.pairs import Pair

THREADS = 2  # a photograph takes up to 150 MB while it is decoded

Problem = tuple[str, str]  # the reason why a pair must not be used, and the detail


class Inspector:
    """
    Checks the images of pairs.

    Args:
        held_out ([`~contextcir.captions.leakage.HeldOut`], *optional*): Test images that no pair may show.
        fetch (`Callable[[str], bytes]`, *optional*): Downloads a URL or raises an `ImageError`.
        folder (`str` or `os.PathLike`, *optional*): Folder for downloaded images; needed with `fetch`.
    """

    def __init__(
        self,
        held_out: HeldOut | None = None,
        fetch: Callable[[str], bytes] | None = None,
        folder: str | os.PathLike | None = None,
    ):
        self._held_out, self._fetch, self._folder = held_out, fetch, Path(folder) if folder else None
        self._pool = ThreadPoolExecutor(THREADS)
        self._checks: dict[str, asyncio.Future[tuple[bytes, Problem | None]]] = {}

    async def inspect(self, pair: Pair) -> tuple[Pair, Problem | None]:
        """
        Check both images of a pair.

        Args:
            pair ([`~contextcir.data.pairs.Pair`]): May hold URLs.

        Returns:
            `tuple[Pair, tuple[str, str] or None]`: The pair with its images on disk, and the reason and detail if it
            must not be used: `unreadable_image`, `identical_images` or `test_image`.
        """
        local = self.local(pair)
        reference, problem = await self._check_once(pair.reference_id, local.reference_image, pair.reference_image)
        target, other = await self._check_once(pair.target_id, local.target_image, pair.target_image)
        if reference == target and not (problem or other):
            problem = "identical_images", f"{pair.reference_id} and {pair.target_id} show the same"
        return local, problem or other

    def local(self, pair: Pair) -> Pair:
        """Return the pair with the paths for downloaded images in place of their URLs, whether they exist or not."""
        return replace(
            pair, reference_image=self._path(pair.reference_image), target_image=self._path(pair.target_image)
        )

    def close(self) -> None:
        """Stop, without waiting for images that are still to be read."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _path(self, source: Any) -> Any:
        if is_url(source) and self._folder:
            return self._folder / hashlib.sha256(source.encode()).hexdigest()[:32]
        return source

    async def _check_once(self, image_id: str, source: Any, given: Any) -> tuple[bytes, Problem | None]:
        if image_id not in self._checks:  # stored before it is done: pairs in flight share images
            loop = asyncio.get_running_loop()
            self._checks[image_id] = loop.run_in_executor(self._pool, self._check, image_id, source, given)
        return await asyncio.shield(self._checks[image_id])

    def _check(self, image_id: str, source: Any, given: Any) -> tuple[bytes, Problem | None]:
        """Return a digest of the pixels, which is the same for a picture as PNG and as BMP, and the problem."""
        try:
            if is_url(given) and not Path(source).exists():
                self._download(given, Path(source))
            image = load_image(source, name=image_id)
        except ImageError as error:
            return b"", ("unreadable_image", str(error))
        shown = self._held_out.find(image_id, image) if self._held_out else None
        problem = ("test_image", f"shows the test image {shown}") if shown else None
        return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest(), problem

    def _download(self, url: str, path: Path) -> None:
        if self._fetch is None:
            raise ImageError(f"{url}: is a URL, and downloads were not allowed. Allow them, or give a file.")
        content = self._fetch(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(content)
        unfinished.replace(path)
