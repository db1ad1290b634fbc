"""Training triplets: the columns every data set shares, loading with checks, and rows -> one training batch.

A triplet is (reference image, modification text, target image). Noun phrases are character spans of the text, so that
no tokenizer and no parser is baked into the data. Images stay encoded until the collator reads them through
[`~contextcir.images.load_image`]: `datasets` would end an iteration at the first broken one.
"""

import hashlib
import json
import math
import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import datasets
import PIL
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets import Features, Image, LargeList, List, Value
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher
from PIL import Image as PILImage

from contextcir import images
from contextcir.images import ImageError, load_image, unpacked

Augmentation = Literal["none", "crop"]

IMAGE_COLUMNS = ("reference_image", "target_image")
TRIPLET_FEATURES = Features(
    {
        "id": Value("string"),
        "reference_image": Image(),
        "target_image": Image(),
        "modification_text": Value("string"),
        "noun_phrases": List({"text": Value("string"), "start": Value("int32"), "end": Value("int32")}),
        "reference_id": Value("string"),
        "target_id": Value("string"),
    }
)


def load_triplets(
    name_or_path: str,
    split: str = "train",
    *,
    config_name: str | None = None,
    revision: str | None = None,
    require_noun_phrases: bool = True,
) -> datasets.Dataset:
    """
    Load triplets from the Hub, from a folder of Parquet files or from an image folder, and check every row.

    An image folder holds images and a `metadata.jsonl` with `reference_file_name`, `target_file_name` and
    `modification_text`. There, `reference_id` and `target_id` default to the file names and `id` to the row number.

    Args:
        name_or_path (`str`): Hub name or local folder.
        split (`str`, defaults to `"train"`): `datasets` syntax, such as `"train[:1000]"`.
        config_name (`str`, *optional*): Configuration of the data set, such as `"triplets"`.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        require_noun_phrases (`bool`, defaults to `True`):
            Otherwise a missing `noun_phrases` column becomes one of empty lists.

    Returns:
        `datasets.Dataset`: The columns of `TRIPLET_FEATURES`, images undecoded (`Image(decode=False)`).

    Raises:
        ValueError: for damaged files (naming the first), missing columns (naming those that exist), columns of
            another type, duplicate ids, empty texts, and noun phrases that are not the characters of their text that
            they claim to be, with row and id.
    """
    where = f"{name_or_path} (split {split!r})"
    try:
        dataset = datasets.load_dataset(name_or_path, config_name, split=split, revision=revision)
    except (pa.ArrowException, DatasetGenerationError) as error:
        problem = next(_damaged_files(Path(name_or_path)), None)
        if problem is None:
            raise
        raise ValueError(f"{where}: {problem}. Write or download it again.") from error
    from_image_folder = {"reference", "target"} <= set(dataset.column_names)  # what is made of `*_file_name`
    if from_image_folder:
        dataset = dataset.rename_columns({"reference": "reference_image", "target": "target_image"})
    _check_types(dataset, where)
    if from_image_folder:
        dataset = _with_ids(dataset, name_or_path, where)
    if "noun_phrases" not in dataset.column_names and not require_noun_phrases:
        dataset = dataset.add_column("noun_phrases", [[]] * len(dataset), feature=TRIPLET_FEATURES["noun_phrases"])

    missing = [name for name in TRIPLET_FEATURES if name not in dataset.column_names]
    if missing:
        hint = " datasets_scripts/add_noun_phrases.py adds noun_phrases." if "noun_phrases" in missing else ""
        raise ValueError(
            f"{where}: no column {', '.join(missing)}; there are {', '.join(dataset.column_names)}.{hint}"
        )
    dataset = _without_decoding(dataset.select_columns(list(TRIPLET_FEATURES)))
    _check_rows(dataset, where)
    return dataset


def mix_triplets(parts: Sequence[datasets.Dataset], weights: Sequence[float], *, seed: int = 0) -> datasets.Dataset:
    """
    Put data sets together, each seen as often in an epoch as its weight says, as the paper's aggregated data.

    Args:
        parts (`Sequence[datasets.Dataset]`): As from [`load_triplets`].
        weights (`Sequence[float]`): 1 takes all rows of a part once, 2 twice, 0.5 half of them (drawn with the seed,
            in their order).
        seed (`int`, defaults to 0): Of the draw.

    Returns:
        `datasets.Dataset`: The parts one after the other. Ids of images are those of the parts: the same id means
        the same image, and a batch in which it does not is refused.

    Raises:
        ValueError: for weights that are not positive, or that leave nothing of a part.
    """
    chosen = []
    for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
        count = round(weight * len(part)) if weight > 0 else 0
        if not count:
            raise ValueError(f"The weight {weight} leaves nothing of data set {number} with its {len(part)} triplets.")
        whole, rest = divmod(count, len(part))
        rows = list(range(len(part))) * whole
        rows += sorted(random.Random(f"{seed}/{number}").sample(range(len(part)), rest))
        chosen.append(part if rows == list(range(len(part))) else part.select(rows))
    return chosen[0] if len(chosen) == 1 else datasets.concatenate_datasets(chosen)


def _damaged_files(folder: Path) -> Iterator[str]:
    """What is wrong with files of a folder, by name. Read to their ends, since some reader has stumbled over one."""
    for path in sorted(folder.rglob("*.parquet")):
        try:
            for _ in pq.ParquetFile(path).iter_batches():
                pass
        except (pa.ArrowException, OSError) as error:
            yield f"{path} is damaged ({error})"
    for path in sorted(folder.rglob("metadata.jsonl")):
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                json.loads(line)
            except ValueError as error:
                yield f"{path}, line {number} is damaged ({error})"


def _check_types(dataset: datasets.Dataset, where: str) -> None:
    for name, expected in TRIPLET_FEATURES.items():
        got = dataset.features.get(name)
        if got is not None and not _fits(got, expected):
            raise ValueError(f"{where}: column {name} has type {got}, expected {expected}. Cast it or make it again.")


def _fits(got, expected) -> bool:
    """Whether values of one type serve as another: integers and texts of any width, and nulls as anything."""
    if isinstance(got, Value) and got.dtype == "null":
        return True
    if isinstance(expected, Image):
        stored = (Value("string"), Value("binary"), {"bytes": Value("binary"), "path": Value("string")})
        return isinstance(got, Image) or any(_fits(got, kind) for kind in stored)
    if isinstance(expected, dict):
        return isinstance(got, dict) and all(name in got and _fits(got[name], expected[name]) for name in expected)
    if isinstance(expected, List):
        return isinstance(got, (List, LargeList)) and _fits(got.feature, expected.feature)
    return isinstance(got, Value) and _family(got.dtype) == _family(expected.dtype)


def _family(dtype: str) -> str:
    return re.sub(r"^(u|large_)|\d+$", "", dtype)


def _with_ids(dataset: datasets.Dataset, name_or_path: str, where: str) -> datasets.Dataset:
    """Ids of an image folder, where its metadata has none: file names, and row numbers."""
    dataset = _without_decoding(dataset)
    folder = name_or_path if os.path.isdir(name_or_path) else None
    for name in ("reference", "target"):
        paths = [(image or {}).get("path") for image in dataset[f"{name}_image"]]
        if None in paths:
            raise ValueError(
                f"{where}, row {paths.index(None)}: {name}_file_name is empty. Name an image or remove the row."
            )
        if f"{name}_id" not in dataset.column_names:
            paths = [os.path.relpath(path, folder) if folder else path for path in paths]
            dataset = dataset.add_column(f"{name}_id", paths)
    if "id" not in dataset.column_names:
        dataset = dataset.add_column("id", [str(row) for row in range(len(dataset))])
    return dataset


def _without_decoding(dataset: datasets.Dataset) -> datasets.Dataset:
    for column in IMAGE_COLUMNS:
        dataset = dataset.cast_column(column, Image(decode=False))
    return dataset


def _check_rows(dataset: datasets.Dataset, where: str) -> None:
    seen = {}
    texts = dataset.remove_columns(list(IMAGE_COLUMNS))
    for row, triplet in enumerate(texts):
        key = triplet["id"]
        at = f"{where}, row {row} (id {key!r})"
        if key in seen:
            raise ValueError(f"{at}: the id stands in row {seen[key]} as well. Ids must be unique.")
        seen[key] = row
        for name in ("id", "reference_id", "target_id"):
            if not triplet[name]:
                raise ValueError(f"{at}: {name} is empty.")
        text = triplet["modification_text"]
        if not text or text.isspace():
            raise ValueError(f"{at}: modification_text is empty. Remove the row or describe the change.")
        for phrase in triplet["noun_phrases"] or []:
            if phrase is None or None in (phrase["text"], phrase["start"], phrase["end"]):
                raise ValueError(f"{at}: noun_phrases holds {phrase}, expected text, start and end of each.")
            start, end = phrase["start"], phrase["end"]
            if not 0 <= start < end <= len(text):
                raise ValueError(
                    f"{at}: noun_phrases holds the span {start} to {end}, outside its text of {len(text)} characters."
                )
            if text[start:end] != phrase["text"]:
                raise ValueError(
                    f"{at}: noun_phrases says {phrase['text']!r} for the span {start} to {end}, where the text has"
                    f" {text[start:end]!r}. Spans count characters, not bytes."
                )


def describe_triplets(dataset: datasets.Dataset) -> dict[str, float]:
    """What `model_cards/triplets_template.md` says of one split: numbers of `triplets` and of different `targets`, and
    the mean numbers of `words` and of `noun_phrases` of a text."""
    texts = dataset.select_columns(["modification_text", "noun_phrases", "target_id"])[:]
    rows = max(1, len(dataset))
    return {
        "triplets": len(dataset),
        "targets": len(set(texts["target_id"])),
        "words": sum(len(text.split()) for text in texts["modification_text"]) / rows,
        "noun_phrases": sum(len(phrases or []) for phrases in texts["noun_phrases"]) / rows,
    }


def find_bad_images(dataset: datasets.Dataset, num_proc: int | None = None) -> list[dict[str, Any]]:
    """
    Decode every image once and list those that cannot be used. `datasets` caches the pass until the rows, the files
    behind their paths or the code that reads images change.

    Args:
        dataset (`datasets.Dataset`): As from [`load_triplets`].
        num_proc (`int`, *optional*): Number of processes.

    Returns:
        `list[dict]`: `{"row", "id", "column", "error"}` for each bad image, in order of the rows.
    """
    checked = dataset.map(
        _image_errors,
        with_indices=True,
        remove_columns=dataset.column_names,
        features=Features(
            {"row": Value("int64"), "id": Value("string"), **dict.fromkeys(IMAGE_COLUMNS, Value("string"))}
        ),
        num_proc=num_proc,
        new_fingerprint=images_fingerprint(dataset),
        desc="Checking images",
    )
    return [
        {"row": row["row"], "id": row["id"], "column": column, "error": row[column]}
        for row in checked
        for column in IMAGE_COLUMNS
        if row[column]
    ]


def images_fingerprint(dataset: datasets.Dataset) -> str:
    """What changes with the images of triplets, which `datasets` takes for the same while their rows are, and with the
    code that reads them."""
    states = []  # of the files behind paths
    for column in IMAGE_COLUMNS:
        image = dataset.data.column(column)
        outside = pc.is_null(pc.struct_field(image, "bytes"))
        for path in pc.struct_field(image, "path").filter(outside).to_pylist():
            try:
                state = os.stat(path or "")
                states.append((state.st_size, state.st_mtime_ns, state.st_ctime_ns))
            except (OSError, ValueError):  # no such file, or no path at all
                states.append(None)
    return Hasher.hash((dataset._fingerprint, states, PIL.__version__, Path(images.__file__).read_bytes()))


def _image_errors(triplet: dict[str, Any], row: int) -> dict[str, Any]:
    errors = {"row": row, "id": triplet["id"]}
    for column in IMAGE_COLUMNS:
        try:
            triplet_image(triplet, column)
            errors[column] = ""
        except ImageError as error:
            errors[column] = str(error)
    return errors


def triplet_image(triplet: dict[str, Any], column: str) -> PILImage.Image:
    """The image in a column of a triplet; an [`~contextcir.images.ImageError`] names both."""
    path = triplet[column].get("path") if isinstance(triplet[column], dict) else None
    return load_image(triplet[column], name=f"triplet {triplet['id']!r}, {column}" + (f" ({path})" if path else ""))


def _encoded(triplet: dict[str, Any], side: str) -> bytes | str | None:
    """The bytes of an image, or the path where there are none."""
    image = triplet[f"{side}_image"]
    return unpacked(image) if isinstance(image, dict) else None


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
            [`~contextcir.encoded_images.EncodedImages`]; the batch then has `encoded_images` in place of
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
