"""Training triplets: the columns that every data set shares, loading with checks, and mixing.

A triplet is (reference image, modification text, target image). Noun phrases are character spans of the text, so that
no tokenizer and no parser is baked into the data. Images stay encoded until somebody looks at them
([`~contextcir.data.triplet_images`]).
"""

import json
import os
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, LargeList, List, Value
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

from contextcir.data.images import encoded_file

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
# As builders write them; `contextcir phrases` adds the noun phrases.
UNPARSED_FEATURES = Features({name: kind for name, kind in TRIPLET_FEATURES.items() if name != "noun_phrases"})


class PhraseExtractor(Protocol):
    """Finds noun phrases, such as [`~contextcir.phrases.extractor.NounPhraseExtractor`]."""

    fingerprint: str  # changes with whatever the result depends on

    def extract(self, texts: Sequence[str]) -> list[list[dict]]:
        """The noun phrases of each text: `text`, `start` and `end`, in characters."""
        ...


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
        hint = " `contextcir phrases` adds noun_phrases." if "noun_phrases" in missing else ""
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


def add_noun_phrases(
    dataset: datasets.Dataset, extractor: PhraseExtractor, batch_size: int = 2000
) -> tuple[datasets.Dataset, dict[str, int]]:
    """
    Fill the `noun_phrases` column from `modification_text`.

    Args:
        dataset (`datasets.Dataset`): Triplets; an older `noun_phrases` column is replaced.
        extractor ([`PhraseExtractor`]): Finds the phrases.
        batch_size (`int`, defaults to 2000): Texts that are parsed together.

    Returns:
        `tuple[datasets.Dataset, dict]`: The triplets with the columns of `TRIPLET_FEATURES`, and counts: `rows`,
        `distinct_texts`, `noun_phrases` and `without_noun_phrase` (normal: such a triplet has no consistency loss).
    """
    known: dict[str, list[dict]] = {}

    def extract(texts):
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, extractor.extract(new), strict=True))
        return {"noun_phrases": [known[text] for text in texts]}

    dataset = dataset.map(
        extract,
        input_columns="modification_text",
        batched=True,
        batch_size=batch_size,
        features=Features(dataset.features | {"noun_phrases": TRIPLET_FEATURES["noun_phrases"]}),
        new_fingerprint=Hasher.hash((dataset._fingerprint, extractor.fingerprint)),
        desc="Finding noun phrases",
    )
    counts = [len(phrases) for phrases in dataset["noun_phrases"]]
    return dataset.select_columns(list(TRIPLET_FEATURES)), {
        "rows": len(counts),
        "distinct_texts": len(dataset.unique("modification_text")),
        "noun_phrases": sum(counts),
        "without_noun_phrase": counts.count(0),
    }


def embedded_rows(dataset: datasets.Dataset) -> Iterator[dict[str, Any]]:
    """The rows of triplets with their images inside, byte for byte, whether they were stored so or as paths."""
    for row in _without_decoding(dataset):
        yield row | {column: encoded_file(row[column]) for column in IMAGE_COLUMNS}


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
