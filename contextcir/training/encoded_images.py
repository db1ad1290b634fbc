"""Encode the images of training triplets once: a frozen encoder gives the same output in every epoch.

`datasets` keeps the outputs on disk, memory-mapped. All processes share them, and later runs on the same triplets with
the same weights use them again. An image takes 1 + patches tokens: 76 MB for a thousand images of ViT-B/32 in half
precision, 526 MB for ViT-L/14.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import torch
from datasets import Features, Value
from datasets.fingerprint import Hasher
from tqdm import tqdm

from contextcir.data.image_fit import fit_of, is_wide, warn_of_wide
from contextcir.data.triplet_images import images_fingerprint, triplet_image
from contextcir.data.triplets import IMAGE_COLUMNS
from contextcir.runtime.inference import evaluation_mode

IDS_OF_IMAGES = {column: column.replace("image", "id") for column in IMAGE_COLUMNS}
CHUNK = 1024  # images that one process encodes and keeps in one file


class EncodedImages:
    """Outputs of an image encoder by image id: `rows` has them as bytes in a column `encoded`, `places` has the row of
    each id."""

    def __init__(self, rows: datasets.Dataset, places: dict[str, int], shape: torch.Size, dtype: torch.dtype):
        self.rows, self.places, self.shape, self.dtype = rows, places, shape, dtype

    def __call__(self, ids: Sequence[str]) -> torch.Tensor:
        """Return the outputs `(len(ids), *shape)` of `dtype`. An unknown id raises a `KeyError`."""
        found = self.rows[[self.places[image_id] for image_id in ids]]["encoded"]
        return torch.frombuffer(bytearray(b"".join(found)), dtype=self.dtype).view(len(ids), *self.shape)

    def joined(self, others: "EncodedImages") -> "EncodedImages":
        """Return these outputs and those of other images, by the same encoder."""
        rows = datasets.concatenate_datasets([self.rows, others.rows])
        places = {image_id: len(self.rows) + place for image_id, place in others.places.items()}
        return EncodedImages(rows, self.places | places, self.shape, self.dtype)


def encode_all_images(
    triplets: datasets.Dataset, negatives: datasets.Dataset | None, *args: Any, **options: Any
) -> EncodedImages:
    """Encode the images of triplets, and those of their mined negatives (from
    [`~contextcir.data.negatives.load_negatives`]) that the triplets do not show. Other arguments and errors as for
    [`encode_images`]."""
    found = encode_images(triplets, *args, **options)
    if negatives is None:
        return found
    others = [row for row, image_id in enumerate(negatives["id"]) if image_id not in found.places]
    if not others:
        return found
    return found.joined(encode_images(negatives.select(others), *args, columns={"image": "id"}, **options))


def encode_images(
    triplets: datasets.Dataset,
    processor: Any,
    model: Any,
    *,
    columns: Mapping[str, str] = IDS_OF_IMAGES,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 64,
    share: tuple[int, int] = (0, 1),
    wait: Callable[[], Any] = lambda: None,
) -> EncodedImages:
    """
    Encode each image of triplets once. Finished chunks are kept, so that an interrupted call continues later.

    Args:
        triplets (`datasets.Dataset`): As from [`~contextcir.data.triplets.load_triplets`].
        processor (`Callable`): Makes `pixel_values` of `images`.
        model (`torch.nn.Module`): Model with `encode_images`, pixel values `(batch_size, 3, height, width)` -> outputs
            `(batch_size, ...)`, and `vision_model`. The code of one and the weights of the other identify the outputs.
        columns (`Mapping[str, str]`): Column of images -> that of their ids.
        dtype (`torch.dtype`): Type of the outputs, and of matrix products.
        batch_size (`int`): Images of one pass.
        share (`tuple[int, int]`): Index of this process and number of processes with the same disk. Each encodes its
            part and reads those of the others.
        wait (`Callable`): Returns when all of these processes have called it.

    Raises:
        ImageError: An image cannot be read. The error names the triplet and the column.
        ValueError: The model has no `encode_images`: its image encoder reads the text.
    """
    if not hasattr(model, "encode_images"):
        raise ValueError(f"{type(model).__name__} cannot encode images without a text. Leave out encode_images_once.")
    shown: dict[str, tuple[int, str]] = {}  # id -> row and column that show it first
    for column, ids in columns.items():
        for row, image_id in enumerate(triplets[ids]):
            shown.setdefault(image_id, (row, column))
    fingerprint = _fingerprint(triplets, columns, processor, model, dtype)
    read: list[bool] = []  # whether each image is wide; empty where all are in the cache

    def encoded(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> torch.Tensor:
        images = list(map(triplet_image, rows, columns))
        read.extend(map(is_wide, images))
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        autocast = None if dtype == torch.float32 else dtype
        with evaluation_mode(model, autocast) as device, torch.inference_mode():
            return model.encode_images(pixels.to(device)).to("cpu", dtype).contiguous()

    def encoded_chunk(start: int) -> datasets.Dataset:
        places = list(shown.values())[start : start + CHUNK]

        def as_bytes(batch: dict[str, list], indices: list[int]) -> dict[str, list[bytes]]:
            rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
            outputs = encoded(rows, [places[index][1] for index in indices])
            return {"encoded": [image.view(torch.uint8).numpy().tobytes() for image in outputs]}

        chunk = triplets.select([row for row, _ in places])
        return chunk.map(
            as_bytes,
            with_indices=True,
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
    if own == 0:
        warn_of_wide(sum(read), len(read), fit_of(processor))
    shape = encoded([triplets[0]], list(columns)[:1])[0].shape
    return EncodedImages(rows, {image_id: place for place, image_id in enumerate(shown)}, shape, dtype)


@contextmanager
def _without_bars_of_datasets() -> Iterator[None]:
    """Hide the progress bars of `datasets`, one for each chunk: one bar for all chunks is shown instead."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _fingerprint(
    triplets: datasets.Dataset, columns: Iterable[str], processor: Any, model: Any, dtype: torch.dtype
) -> str:
    weights = hashlib.blake2b()
    for name, tensor in model.vision_model.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    code, pixels = type(model).encode_images, processor.image_processor.to_json_string()
    return Hasher.hash((images_fingerprint(triplets, columns), weights.hexdigest(), code, pixels, str(dtype)))
