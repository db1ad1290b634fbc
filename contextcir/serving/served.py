"""The gallery that is being served: the generation that is current, and the change to the next one."""

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from contextcir.data.portable import portable_path
from contextcir.retrieval.store.gallery import StoredGallery
from contextcir.retrieval.store.layout import MANIFEST, StoreError
from contextcir.serving.schemas import Choice, Column, Example

logger = logging.getLogger("contextcir.serving")

LISTED = 50  # values of a column that are listed
NUM_EXAMPLES = 12
INTERVAL = 1.0  # seconds between looks at the folder


class Served:
    """
    A gallery that may be replaced while it is served.

    Args:
        gallery ([`~contextcir.retrieval.store.gallery.StoredGallery`]): Open for search.
        examples (`Sequence[Example]`): References with texts to begin with. Those of images that are not in the
            gallery are left out.
        reopen (`Callable`, *optional*): Opens the gallery again; by default from its folder, with its retriever.
        replaced (`Callable`): Is called after a change.

    Attributes:
        gallery: The current generation. Whoever works on a request keeps the one that it began with.
        stale (`bool`): Whether there is a newer generation that cannot be opened.
    """

    def __init__(
        self,
        gallery: StoredGallery,
        examples: Sequence[Example] = (),
        reopen: Callable[[], StoredGallery] | None = None,
        replaced: Callable[[], None] = lambda: None,
    ):
        self.gallery, self.examples, self.replaced = gallery, examples, replaced
        self.facts, self.stale = GalleryFacts(gallery), False
        self.reopen = reopen or (lambda: StoredGallery.load(self.gallery.folder, self.gallery.retriever))
        self._seen = self._stamp()

    async def watch(self) -> None:
        """Look for a new generation until cancelled, and open it in the background."""
        while True:
            await asyncio.sleep(INTERVAL)
            stamp = self._stamp()
            if stamp is not None and (stamp != self._seen or self.stale):
                await asyncio.to_thread(self.refresh)
                self._seen = stamp

    def refresh(self) -> None:
        """Open the generation in the folder, if it is another one. One that cannot be opened is left alone: the
        current one stays."""
        try:
            if not self.gallery.is_current():
                found = self.reopen()
                if found.manifest.sources == self.gallery.manifest.sources:
                    found.sources = self.gallery.sources  # opened already, or an object in memory
                self.gallery, self.facts = found, GalleryFacts(found)
                self.replaced()
                logger.info("Generation %d: %d images", found.manifest.generation, len(found))
            self.stale = False
        except (StoreError, OSError) as error:
            if not self.stale:
                logger.error("The new generation cannot be opened, the old one is served: %s", error)
            self.stale = True

    def some(self, count: int = NUM_EXAMPLES, seed: int | None = None) -> list[Example]:
        """Images to begin with: the examples, or images at random (always the same ones for a seed)."""
        known = [one for one in self.examples if one.id in self.gallery.positions]
        if known and seed is None:
            return known[:count]
        ids = self.gallery.ids
        return [
            Example(id=ids[place]) for place in random.Random(seed or 0).sample(range(len(ids)), min(count, len(ids)))
        ]

    def _stamp(self) -> tuple[int, ...] | None:
        with suppress(OSError):
            found = (self.gallery.folder / MANIFEST).stat()
            return found.st_mtime_ns, found.st_size, found.st_ino
        return None


class GalleryFacts:
    """
    What there is to say of a gallery.

    Args:
        gallery ([`~contextcir.retrieval.store.gallery.StoredGallery`]): The gallery.

    Attributes:
        columns (`list[Column]`): The facts of the images, with their values or ranges.
    """

    def __init__(self, gallery: StoredGallery):
        self.gallery = gallery
        # Columns without a value are left out. This takes a while for a large gallery: not when somebody asks.
        found = [_column(name, values) for name, values in gallery.facts.items()]
        self.columns: list[Column] = [column for column in found if column is not None]

    @property
    def name(self) -> str:
        """Name of its folder, without where that is, or its name on the Hub."""
        folder = self.gallery.folder.absolute()
        return portable_path(str(folder), folder)

    @property
    def model(self) -> str:
        """Name of the model that embedded it. Of a local folder, the last part alone."""
        encoder = self.gallery.manifest.encoder
        return encoder.model if encoder.revision else Path(encoder.model).name or encoder.model


def _column(name: str, values: Sequence[Any]) -> Column | None:
    there = [value for value in values if value is not None]
    if not there:
        return None
    if all(isinstance(value, bool) for value in there):
        kind = "truth"
    elif all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there):
        finite = [value for value in there if math.isfinite(value)]
        if not finite:
            return None
        whole = all(float(value).is_integer() for value in finite)
        return Column(name=name, kind="number", least=min(finite), most=max(finite), whole=whole)
    else:
        there = [value for value in there if isinstance(value, str)]  # of mixed ones, the texts
        kind = "text"
        if not there:
            return None
    counts = Counter(there)
    if kind == "text" and len(counts) <= LISTED:
        kind = "choice"
    choices = [Choice(value=value, count=count) for value, count in counts.most_common(LISTED)]
    return Column(name=name, kind=kind, choices=choices, distinct=len(counts))
