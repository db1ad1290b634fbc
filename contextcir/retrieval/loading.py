"""Read and preprocess images ahead of the model that embeds them, in threads or in worker processes.

An image is read, hashed, decoded and turned into pixel values in the background; the main thread only stacks batches
and runs the model. Threads are enough for a model on the CPU. A GPU needs processes: what of the preprocessing is
Python runs in one thread at a time.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from contextcir.data.content import content_digest, image_content
from contextcir.data.images import ImageError, load_image

T = TypeVar("T")
NUM_THREADS = 2  # that read ahead where there are no worker processes


@dataclass(frozen=True)
class LoadedImage:
    """
    An image of a gallery, ready to be embedded.

    Attributes:
        place (`int`): Its place in the gallery.
        digest (`bytes`): SHA-256 of its content, 32 bytes of zeros if it cannot be read.
        pixels: What `prepare` made of it. `None` for a known or unreadable image.
        error (`str`, *optional*): Why it cannot be used.
    """

    place: int
    digest: bytes
    pixels: Any = None
    error: str | None = None


class ImageLoader:
    """
    Load images of a gallery by their place.

    Args:
        ids (`Sequence[str]`): Names of the images, for errors.
        images (`Sequence`): Images in any form that [`~contextcir.data.images.load_image`] reads.
        prepare (`Callable[[Image.Image], Any]`, *optional*): Preprocessing; by default, the RGB image as it is.
        known (`Collection[bytes]`, *optional*): Digests of images that need no decoding.
        draft_side (`int`, *optional*): As for [`~contextcir.data.images.load_image`].
    """

    def __init__(
        self,
        ids: Sequence[str],
        images: Sequence[Any],
        prepare: Callable[[Image.Image], Any] | None = None,
        known: Collection[bytes] = (),
        draft_side: int | None = None,
    ):
        self.ids, self.images, self.prepare, self.known = ids, images, prepare, known
        self.draft_side = draft_side

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> LoadedImage:
        digest, name = bytes(32), f"gallery image {self.ids[place]!r}"
        try:
            content = image_content(self.images[place])
            digest = content_digest(content)
            if digest in self.known:
                return LoadedImage(place, digest)
            image = load_image(content, name=name, draft_side=self.draft_side)
            return LoadedImage(place, digest, image if self.prepare is None else self.prepare(image))
        except ImageError as error:
            return LoadedImage(place, digest, error=str(error))


@dataclass(frozen=True)
class ImageBatch:
    """
    Consecutive images.

    Attributes:
        loaded (`list[LoadedImage]`): All of them, without pixels.
        places (`list[int]`): Places of those that are to be embedded.
        pixels (`torch.Tensor` or `list`): Their pixel values, `(len(places), ...)`, or a list where `prepare` does not
            give tensors.
    """

    loaded: list[LoadedImage]
    places: list[int]
    pixels: Any = field(repr=False)


def collate(loaded: Sequence[LoadedImage]) -> ImageBatch:
    """Stack the pixels of a batch."""
    good = [one for one in loaded if one.pixels is not None]
    pixels = stack([one.pixels for one in good])
    bare = [LoadedImage(one.place, one.digest, error=one.error) for one in loaded]
    return ImageBatch(bare, [one.place for one in good], pixels)


def stack(prepared: list[Any]) -> Any:
    """Stack what `prepare` made of images, where it gives tensors; anything else stays a list."""
    return torch.stack(prepared) if prepared and isinstance(prepared[0], torch.Tensor) else prepared


def image_batches(
    loader: ImageLoader, places: Sequence[int], *, batch_size: int, num_workers: int = 0
) -> Iterator[ImageBatch]:
    """
    Load batches of images ahead of their use.

    Args:
        loader ([`ImageLoader`]): Loads one image.
        places (`Sequence[int]`): Places in the gallery, in the order of the batches.
        batch_size (`int`): Images of a batch.
        num_workers (`int`, *optional*, defaults to 0): Worker processes; 0 means threads of this process.

    Yields:
        [`ImageBatch`]
    """
    if not num_workers:
        yield from (collate(loaded) for _, loaded in read_ahead(places, loader.__getitem__, batch_size))
        return
    yield from DataLoader(
        Subset(loader, list(places)),  # type: ignore[arg-type]  # a Subset takes anything with places
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
    )


def read_ahead(
    places: Sequence[int], load: Callable[[int], T], batch_size: int, num_threads: int = NUM_THREADS
) -> Iterator[tuple[Sequence[int], list[T]]]:
    """Yield batches of places with what `load` returns for them. Threads load the next batch while one is used."""
    batches = deque(places[start : start + batch_size] for start in range(0, len(places), batch_size))
    with ThreadPoolExecutor(num_threads) as pool:
        upcoming = [pool.submit(load, place) for place in batches[0]]
        while batches:
            batch, current = batches.popleft(), upcoming
            upcoming = [pool.submit(load, place) for place in batches[0]] if batches else []
            yield batch, [future.result() for future in current]
