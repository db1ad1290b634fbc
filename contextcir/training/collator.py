"""Rows of a triplet data set -> one training batch."""

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from PIL import Image as PILImage

from contextcir.data.images import unpacked
from contextcir.data.triplet_images import triplet_image

Augmentation = Literal["none", "crop"]


class TripletCollator:
    """
    Rows of a triplet data set -> the keyword arguments of the model's `forward`, and what the trainer needs.

    An image that several rows share, by its id, is read and encoded once. Augmentation depends on nothing but `(seed,
    epoch, image id)`: the same in any worker, on any process and after resuming.

    Args:
        processor: Makes `pixel_values` of `images`, and token ids and phrase tensors of `text` and `noun_phrases`.
        max_phrases (`int`, defaults to 10): Noun phrases of a text that are used, from the front (breadth-first); 0
            for a model without an eye for them.
        augmentation (`"none"` or `"crop"`): `"crop"` cuts out 80 to 100 % of each image's area, in proportion.
            Nothing flips or recolours, since texts speak of sides and colours.
        seed (`int`, defaults to 0): Seed of the augmentation.
        encoded_images (`Callable`, *optional*): Ids of N images -> encoded images `(N, ...)`, such as
            [`~contextcir.training.encoded_images.EncodedImages`]; the batch then has `encoded_images` in place of
            `pixel_values`, and nothing is read.

    Returns of a call:
        `dict[str, torch.Tensor]` with, for B rows, N distinct images and P noun phrases, `pixel_values`
        `(N, 3, height, width)`; `reference_index` and `target_index` `(B,)`; `input_ids` and `attention_mask`
        `(B, length)`;
        with noun phrases `phrase_input_ids` and `phrase_attention_mask` `(P, phrase_length)`; `phrase_sample` `(P,)`;
        `phrase_token_mask` `(P, length)`; and beside `target_keys` and `reference_keys` `(B,)`,
        `num_truncated_texts` and, with noun phrases, `num_dropped_phrases` (0-dim).

    Raises:
        ImageError: for an image that cannot be read, naming the triplet and the column.
        ValueError: for two images with one id.
    """

    def __init__(
        self,
        processor,
        *,
        max_phrases: int = 10,
        augmentation: Augmentation = "none",
        seed: int = 0,
        encoded_images: Callable[[Sequence[str]], torch.Tensor] | None = None,
    ):
        if augmentation not in get_args(Augmentation):
            raise ValueError(f"augmentation must be one of {get_args(Augmentation)}, got {augmentation!r}.")
        self.processor = processor
        self.max_phrases = max_phrases
        self.augmentation = augmentation
        self.seed = seed
        self.encoded_images = encoded_images
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # seen by workers that outlive an epoch

    def set_epoch(self, epoch: int) -> None:
        """Called at the beginning of each epoch."""
        self._epoch.fill_(epoch)

    def for_evaluation(self) -> "TripletCollator":
        """The same without augmentation, for other triplets than those of training."""
        return TripletCollator(self.processor, max_phrases=self.max_phrases)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        shown = {}  # id of an image -> the row and the side of it that show it first; each is read and encoded once
        for side in ("reference", "target"):
            for row in rows:
                first = shown.setdefault(row[f"{side}_id"], (row, side))
                if _encoded(*first) != _encoded(row, side):
                    raise ValueError(
                        f"Triplets {first[0]['id']!r} and {row['id']!r} show different images under one id,"
                        f" {row[f'{side}_id']!r}. An id must stand for one image."
                    )
        pixels = None if self.encoded_images else [self._image(row, side) for row, side in shown.values()]
        encoded = self.processor(
            images=pixels,
            text=[row["modification_text"] for row in rows],
            **self._of_noun_phrases(rows),
        )
        if not self.max_phrases:
            encoded = {name: value for name, value in encoded.items() if not name.startswith("phrase_")}
        places = {image_id: place for place, image_id in enumerate(shown)}
        ids = {side: [row[f"{side}_id"] for row in rows] for side in ("reference", "target")}
        return {
            "input_ids": encoded.pop("input_ids"),  # first: its length is taken for the batch size
            **encoded,
            **({"encoded_images": self.encoded_images(list(shown))} if self.encoded_images else {}),
            **{f"{side}_index": torch.tensor([places[image_id] for image_id in ids[side]]) for side in ids},
            **{f"{side}_keys": torch.tensor([image_key(image_id) for image_id in ids[side]]) for side in ids},
        }

    def _of_noun_phrases(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Both ways to ask a processor say how many texts were cut."""
        if "phrase_input_ids" in self.processor.model_input_names:
            return {"noun_phrases": [(row["noun_phrases"] or [])[: self.max_phrases] for row in rows]}
        return {"count_truncated": True}

    def _image(self, row: dict[str, Any], side: str) -> PILImage.Image:
        image = triplet_image(row, f"{side}_image")
        if self.augmentation == "none":
            return image
        draw = random.Random(f"{self.seed}/{self._epoch.item()}/{row[f'{side}_id']}")
        scale = math.sqrt(draw.uniform(0.8, 1.0))
        width, height = scale * image.width, scale * image.height
        left, top = draw.uniform(0, image.width - width), draw.uniform(0, image.height - height)
        return image.resize(image.size, PILImage.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def image_key(image_id: str) -> int:
    """A stable integer in [0, 2**63) for an id, to compare images across processes."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "big") >> 1


def _encoded(triplet: dict[str, Any], side: str) -> bytes | str | None:
    """The bytes of an image, or the path where there are none."""
    image = triplet[f"{side}_image"]
    return unpacked(image) if isinstance(image, dict) else None
