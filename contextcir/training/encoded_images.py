"""Images of training triplets, encoded once: an encoder that rests says the same of an image in every epoch.

What it says is kept by `datasets`, memory-mapped and shared by all processes and by all later runs on the same
triplets with the same weights. It takes room on the disk: 1 + patches tokens of an image, 76 MB for a thousand images
of ViT-B/32 in half precision and 526 MB for ViT-L/14.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import torch
from datasets import Features, Value
from datasets.fingerprint import Hasher
from tqdm import tqdm

from contextcir.data.triplet_images import images_fingerprint, triplet_image
from contextcir.data.triplets import IMAGE_COLUMNS

CHUNK = 1024  # images that are encoded by one process and kept in one file


class EncodedImages:
    """
    What an encoder makes of images, by id.

    Args:
        rows (`datasets.Dataset`): A column `encoded` of bytes.
        places (`dict[str, int]`): The row of each id.
        shape (`torch.Size`): Of one encoded image.
        dtype (`torch.dtype`): Of its numbers.
    """

    def __init__(self, rows: datasets.Dataset, places: dict[str, int], shape: torch.Size, dtype: torch.dtype):
        self.rows, self.places, self.shape, self.dtype = rows, places, shape, dtype

    def __call__(self, ids: Sequence[str]) -> torch.Tensor:
        """`(len(ids), *shape)`, of `dtype`. An id that is not of the triplets is a `KeyError`."""
        found = self.rows[[self.places[image_id] for image_id in ids]]["encoded"]
        return torch.frombuffer(bytearray(b"".join(found)), dtype=self.dtype).view(len(ids), *self.shape)


def encode_images(
    triplets: datasets.Dataset,
    processor: Callable,
    encoder: torch.nn.Module,
    encode: Callable[[torch.Tensor], torch.Tensor],
    *,
    kind: Callable | str,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 64,
    share: tuple[int, int] = (0, 1),
    wait: Callable[[], Any] = lambda: None,
) -> EncodedImages:
    """
    Encode each image of triplets once, in chunks that are kept as they are finished: what is interrupted goes on.

    Args:
        triplets (`datasets.Dataset`): As from [`~contextcir.data.triplets.load_triplets`].
        processor (`Callable`): Makes `pixel_values` of `images`.
        encoder (`torch.nn.Module`): What must not change meanwhile: other weights are another result.
        encode (`Callable[[torch.Tensor], torch.Tensor]`): Pixel values `(batch_size, 3, height, width)` -> encoded
            images `(batch_size, ...)`. Called without gradient.
        kind (`Callable` or `str`): What tells two ways to encode with the same weights apart, such
            as the method behind `encode`: other code is another result.
        dtype (`torch.dtype`, defaults to `torch.float32`): What is kept.
        batch_size (`int`, defaults to 64): Images of one pass.
        share (`tuple[int, int]`, defaults to `(0, 1)`): Which of how many processes with the same disk this is. Each
            encodes its part, and reads those of the others.
        wait (`Callable`): Returns when all of these processes have called it.

    Raises:
        ImageError: for an image that cannot be read, naming the triplet and the column.
    """
    ids = {column: triplets[column.replace("image", "id")] for column in IMAGE_COLUMNS}
    shown: dict[str, tuple[int, str]] = {}  # id -> row and column that show it first
    for column in IMAGE_COLUMNS:
        for row, image_id in enumerate(ids[column]):
            shown.setdefault(image_id, (row, column))
    columns = [column for _, column in shown.values()]

    def encoded(of: Sequence[dict[str, Any]], columns: Sequence[str]) -> torch.Tensor:
        pixels = processor(images=list(map(triplet_image, of, columns)), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            return encode(pixels).to("cpu", dtype).contiguous()

    def as_bytes(batch: dict[str, list], places: list[int], start: int) -> dict[str, list[bytes]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        made = encoded(rows, [columns[start + place] for place in places])
        return {"encoded": [image.view(torch.uint8).numpy().tobytes() for image in made]}

    fingerprint = _fingerprint(triplets, processor, encoder, kind, dtype)
    rows_shown = [row for row, _ in shown.values()]

    def encoded_chunk(start: int) -> datasets.Dataset:
        chunk = triplets.select(rows_shown[start : start + CHUNK])
        return chunk.map(
            as_bytes,
            with_indices=True,
            fn_kwargs={"start": start},
            batched=True,
            batch_size=batch_size,
            writer_batch_size=batch_size,
            remove_columns=chunk.column_names,
            features=Features({"encoded": Value("binary")}),
            new_fingerprint=Hasher.hash((fingerprint, start)),
        )

    own, num_processes = share
    starts, chunks = range(0, len(shown), CHUNK), {}
    with _without_bars_of_datasets():
        for start in tqdm(starts[own::num_processes], "Encoding images", unit="chunk", disable=own > 0):
            chunks[start] = encoded_chunk(start)
        wait()
        rows = datasets.concatenate_datasets([chunks.get(start) or encoded_chunk(start) for start in starts])
    shape = encoded([triplets[0]], [IMAGE_COLUMNS[0]])[0].shape
    return EncodedImages(rows, {image_id: place for place, image_id in enumerate(shown)}, shape, dtype)


@contextmanager
def _without_bars_of_datasets() -> Iterator[None]:
    """One bar tells how far a process is; `datasets` would draw one for each chunk."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _fingerprint(
    triplets: datasets.Dataset, processor, encoder: torch.nn.Module, kind: Callable | str, dtype: torch.dtype
) -> str:
    weights = hashlib.blake2b()
    for name, tensor in encoder.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    pixels = processor.image_processor.to_json_string()
    return Hasher.hash((images_fingerprint(triplets), weights.hexdigest(), kind, pixels, str(dtype)))
