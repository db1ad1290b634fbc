"""Collate rows of a triplet data set into a training batch."""

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from PIL import Image as PILImage
from transformers import TrainerCallback, TrainerState

from contextcir.data.image_fit import fit_of, is_wide, warn_of_wide
from contextcir.data.images import unpacked
from contextcir.data.triplet_images import triplet_image
from contextcir.data.triplets import MAPS_FIT, PHRASE_MAPS
from contextcir.phrases.concepts import is_concept

Augmentation = Literal["none", "crop"]
STREAM_PASS = "stream_pass"  # key of the pass in which a row is read from a stream


class TripletCollator:
    """
    Rows of a triplet data set -> the keyword arguments of the model's `forward`, and keys and counts for the trainer.

    An image of several rows, by its id, is read and encoded once. Augmentation depends on `(seed, epoch, image id)`
    only: it is the same in any worker, on any process and after resuming.

    Args:
        processor: Makes `pixel_values` of `images`, and token ids and phrase tensors of `text` and `noun_phrases`.
        max_phrases (`int`, defaults to 10): Most noun phrases of a text, from the front (breadth-first); 0 for a model
            that does not use them.
        concepts_only (`bool`, defaults to `True`): Leave out phrases that name nothing in an image, before they are
            counted, see [`~contextcir.phrases.concepts.is_concept`].
        augmentation (`"none"` or `"crop"`): `"crop"` cuts out 80 to 100 % of each image's area and keeps its
            proportions. Images are not flipped or recoloured, since texts describe sides and colours.
        seed (`int`, defaults to 0): Seed of the augmentation.
        encoded_images (`Callable`, *optional*): Ids of N images -> encoded images `(N, ...)`, such as
            [`~contextcir.training.encoded_images.EncodedImages`]. The batch then has `encoded_images` instead of
            `pixel_values`, and no image is read.
        hard_negatives (`int`, defaults to 0): Mined negatives of a row, drawn from its `negative_ids`. The draw
            depends on `(seed, epoch, row id)` only. A row that has fewer is filled up with its own target, which the
            loss does not count as a negative.
        negatives (`Mapping`, *optional*): Id -> image of all mined negatives, such as
            [`~contextcir.data.negatives.NegativeImages`].
        grounding (`bool`, defaults to `False`): Read where the noun phrases are, from the column `phrase_maps`.
        phrase_places (`bool`, defaults to `False`): Say of each noun phrase its place among those of its row.

    Returns of a call:
        `dict` with, for B rows, N distinct images and P noun phrases, `pixel_values`
        `(N, 3, height, width)`; `reference_index` and `target_index` `(B,)`; `input_ids` and `attention_mask`
        `(B, length)`; `target_keys` and `reference_keys` `(B,)`; `num_truncated_texts` (0-dim); `triplet_ids`, a list;
        with H hard negatives `negative_keys` `(B * H,)`, whose places follow those of the targets in `target_index`;
        and with noun phrases `phrase_input_ids` and `phrase_attention_mask` `(P, phrase_length)`; `phrase_sample`
        `(P,)`; `phrase_token_mask` `(P, length)`; `num_dropped_phrases` (0-dim); and if asked for `phrase_maps`
        `(P, num_patches)` and `phrase_place` `(P,)`.

    Raises:
        ImageError: An image cannot be read. The error names the triplet and the column.
        ValueError: Two images have one id, a text is no Unicode, or the maps of a row are not one for each of its noun
            phrases, differ in size or are no weights in [0, 1].
    """

    def __init__(
        self,
        processor: Any,
        *,
        max_phrases: int = 10,
        concepts_only: bool = True,
        augmentation: Augmentation = "none",
        seed: int = 0,
        encoded_images: Callable[[Sequence[str]], torch.Tensor] | None = None,
        hard_negatives: int = 0,
        negatives: Any = None,
        grounding: bool = False,
        phrase_places: bool = False,
    ):
        if augmentation not in get_args(Augmentation):
            raise ValueError(f"augmentation must be one of {get_args(Augmentation)}, got {augmentation!r}.")
        self.processor = processor
        self.max_phrases, self.concepts_only = max_phrases, concepts_only
        self.augmentation = augmentation
        self.seed = seed
        self.encoded_images = encoded_images
        self.hard_negatives, self.negatives = hard_negatives, negatives
        self.grounding, self.phrase_places = grounding, phrase_places
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # seen by workers that outlive an epoch
        self._read = torch.zeros(2, dtype=torch.long).share_memory_()  # wide images, and all that were read
        self._warned = False

    def note_wide_images(self) -> None:
        """Warn once of images that lose their sides, among those that were read so far."""
        if not self._warned:
            self._warned = True
            wide, total = self._read.tolist()
            warn_of_wide(wide, total, fit_of(self.processor))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which augmentation depends."""
        self._epoch.fill_(epoch)

    def for_evaluation(self) -> "TripletCollator":
        """Return a collator without augmentation, for other triplets than those of training."""
        return TripletCollator(self.processor, max_phrases=self.max_phrases, concepts_only=self.concepts_only)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        shown: dict[str, tuple[dict[str, Any], str]] = {}  # image id -> the first row and side that show it
        mined = [negative for row in rows for negative in self._mined(row)] if self.hard_negatives else []
        for side, some in (("reference", rows), ("target", rows), ("negative", mined)):
            for row in some:
                first = shown.setdefault(row[f"{side}_id"], (row, side))
                if _content(*first) != _content(row, side):
                    raise ValueError(
                        f"Triplets {first[0]['id']!r} and {row['id']!r} show different images under one id,"
                        f" {row[f'{side}_id']!r}. Give each image its own id."
                    )
        with_phrases = self.max_phrases and "phrase_input_ids" in self.processor.model_input_names
        for row in rows:
            _check_text(row)
        chosen = [self._places_of_phrases(row) for row in rows]
        phrases = [[row["noun_phrases"][place] for place in places] for row, places in zip(rows, chosen, strict=True)]
        encoded = self.processor(
            images=None if self.encoded_images else [self._image(row, side) for row, side in shown.values()],
            text=[row["modification_text"] for row in rows],
            **({"noun_phrases": phrases, "return_phrase_places": True} if with_phrases else {"count_truncated": True}),
        )
        if with_phrases:
            of_kept = zip(encoded["phrase_sample"].tolist(), encoded["phrase_place"].tolist(), strict=True)
            kept = [(row, chosen[row][place]) for row, place in of_kept]
            del encoded["phrase_place"]
            if self.phrase_places:
                encoded["phrase_place"] = torch.tensor([place for _, place in kept], dtype=torch.long)
            if self.grounding:
                _check_maps_fit(rows, fit_of(self.processor))
                encoded["phrase_maps"] = _phrase_maps(rows, kept)
        places = {image_id: place for place, image_id in enumerate(shown)}
        ids = {side: [row[f"{side}_id"] for row in rows] for side in ("reference", "target")}
        if mined:
            ids["negative"] = [negative["negative_id"] for negative in mined]
        index = {side: torch.tensor([places[image_id] for image_id in some]) for side, some in ids.items()}
        if mined:  # embedded as targets are, by any model
            index["target"] = torch.cat([index["target"], index.pop("negative")])
        return {
            "input_ids": encoded.pop("input_ids"),  # first: its length is taken for the batch size
            **encoded,
            **({"encoded_images": self.encoded_images(list(shown))} if self.encoded_images else {}),
            **{f"{side}_index": some for side, some in index.items()},
            **{f"{side}_keys": torch.tensor([image_key(image_id) for image_id in ids[side]]) for side in ids},
            "triplet_ids": [row["id"] for row in rows],
        }

    def _epoch_of(self, row: dict[str, Any]) -> int:
        """Return the epoch of a row: that of its stream, whose workers may be in different passes, or of all."""
        return row.get(STREAM_PASS, self._epoch.item())

    def _places_of_phrases(self, row: dict[str, Any]) -> list[int]:
        """Return which noun phrases of a row the losses read."""
        phrases, text = row.get("noun_phrases") or [], row["modification_text"]
        found = _distinct(phrases)
        if self.concepts_only:
            found = [place for place in found if _may_be_concept(phrases[place], text)]
        return found[: self.max_phrases]

    def _mined(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Draw mined negatives of a row, each as a row that shows it."""
        ids = row["negative_ids"] or []
        draw = random.Random(f"{self.seed}/{self._epoch_of(row)}/{row['id']}/negatives")
        chosen = draw.sample(ids, min(self.hard_negatives, len(ids)))
        images = [(image_id, self.negatives[image_id]) for image_id in chosen]
        images += [(row["target_id"], row["target_image"])] * (self.hard_negatives - len(chosen))
        return [{"id": row["id"], "negative_id": image_id, "negative_image": image} for image_id, image in images]

    def _image(self, row: dict[str, Any], side: str) -> PILImage.Image:
        image = triplet_image(row, f"{side}_image")
        self._read += torch.tensor([is_wide(image), True])
        if self.augmentation == "none":
            return image
        draw = random.Random(f"{self.seed}/{self._epoch_of(row)}/{row[f'{side}_id']}")
        scale = math.sqrt(draw.uniform(0.8, 1.0))
        width, height = scale * image.width, scale * image.height
        left, top = draw.uniform(0, image.width - width), draw.uniform(0, image.height - height)
        return image.resize(image.size, PILImage.Resampling.BICUBIC, box=(left, top, left + width, top + height))


class WarnOfWideImages(TrainerCallback):
    """Say at the first log how many of the images so far lose their sides."""

    def __init__(self, collator: TripletCollator):
        self.collator = collator

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.collator.note_wide_images()


class SetCollatorEpoch(TrainerCallback):
    """Set the epoch of a collator, which the data loader does for samplers and data sets only."""

    def __init__(self, collator: TripletCollator):
        self.collator = collator

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.collator.set_epoch(int(state.epoch or 0))


def _check_text(row: dict[str, Any]) -> None:
    """Refuse half of a surrogate pair, which JSON may hold and no tokenizer takes."""
    try:
        row["modification_text"].encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Triplet {row['id']!r}: the text {row['modification_text']!r} is no Unicode ({error.reason} at character"
            f" {error.start}). Write it again, or remove the row."
        ) from error


def _distinct(phrases: Sequence[Any]) -> list[int]:
    """Return places of noun phrases, without those whose span an earlier one has: they would count twice."""
    first: dict[Any, int] = {}
    for place, phrase in enumerate(phrases):
        first.setdefault(_span(phrase) or repr(phrase), place)
    return list(first.values())


def _check_maps_fit(rows: Sequence[dict[str, Any]], fit: str) -> None:
    """Refuse maps of images that were made squares in another way: they have as many patches, at other places."""
    for row in rows:
        if row.get(MAPS_FIT) not in (None, fit):
            raise ValueError(
                f"Triplet {row['id']!r} has maps of noun phrases for image_fit={row[MAPS_FIT]!r}, the model has"
                f" {fit!r}. Make them again: `contextcir ground --image_fit {fit} --replace_maps`."
            )


def _phrase_maps(rows: Sequence[dict[str, Any]], kept: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Return the maps of noun phrases, each named by its row and its place there, `(num_phrases, num_patches)`."""
    maps: list[Sequence[float]] = []
    for row, place in kept:
        triplet = rows[row]
        given, phrases = triplet.get(PHRASE_MAPS), triplet["noun_phrases"]
        if given is None or len(given) != len(phrases):
            raise ValueError(
                f"Triplet {triplet['id']!r} has {len(phrases)} noun phrases and maps of {len(given or [])}. Make them"
                " again: `contextcir ground`."
            )
        own, size = given[place], len(maps[0]) if maps else None
        if not isinstance(own, (list, tuple)) or not own or len(own) != (size or len(own)) or None in own:
            raise ValueError(
                f"Triplet {triplet['id']!r}: the map of its noun phrase {place} is {str(own)[:60]}, expected"
                f" {size or 'a'} weight{'s' if size else ' of each patch'}. Write zeros where nothing is known."
            )
        maps.append(own)
    found = torch.tensor(maps, dtype=torch.float32).reshape(len(maps), -1 if maps else 0)
    total = found.sum(dim=1)
    wrong = ((found < 0).any(dim=1) | ~(total <= 1.01)).nonzero()[:, 0].tolist()  # also NaN
    if wrong:
        row, place = kept[wrong[0]]
        raise ValueError(
            f"Triplet {rows[row]['id']!r}: the map of its noun phrase {place} has weights from"
            f" {found[wrong[0]].min():.3g} and the sum {total[wrong[0]]:.3g}, expected weights of at least 0 with a"
            " sum of at most 1."
        )
    return found


def _may_be_concept(phrase: Any, text: str) -> bool:
    """Whether a noun phrase is a concept. What is no span of the text passes: the processor refuses it."""
    start, end = _span(phrase) or (0, 0)
    return not 0 <= start < end <= len(text) or is_concept(text[start:end])


def _span(phrase: Any) -> tuple[int, int] | None:
    """Return the start and end of a noun phrase, `None` if it is none."""
    span = [phrase.get("start"), phrase.get("end")] if isinstance(phrase, dict) else phrase
    if not isinstance(span, (list, tuple)) or len(span) != 2:
        return None
    start, end = span
    return (start, end) if isinstance(start, int) and isinstance(end, int) else None


def image_key(image_id: str | int) -> int:
    """Return a stable integer in [0, 2**63) for an id, to compare images across processes."""
    return int.from_bytes(hashlib.blake2b(str(image_id).encode(), digest_size=8).digest(), "big") >> 1


def _content(triplet: dict[str, Any], side: str) -> bytes | str | None:
    """Return the encoded bytes of an image, or its path if there are none."""
    image = triplet[f"{side}_image"]
    return unpacked(image) if isinstance(image, dict) else None
