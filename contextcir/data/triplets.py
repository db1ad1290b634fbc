"""Training triplets of reference image, modification text and target image: load, check, mix, and add noun phrases.

Noun phrases are character spans of the text, so the data do not depend on a tokenizer or a parser. Images stay encoded
until they are used, see [`~contextcir.data.triplet_images`].
"""

import json
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, LargeList, List, Value
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

from contextcir.data.dataset_cache import cache_of
from contextcir.data.folders import files_in
from contextcir.data.image_files import existing_path
from contextcir.data.images import encoded_file

IMAGE_COLUMNS = ("reference_image", "target_image")
PHRASE_MAPS = "phrase_maps"  # optional column: where the noun phrases of a row are in its reference image
MAPS_FIT = "phrase_maps_fit"  # optional column beside it: the `image_fit` of the square that the maps divide
MAPS_FEATURE = List(List(Value("float32")))
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
    """A noun phrase extractor, such as [`~contextcir.phrases.extractor.NounPhraseExtractor`]."""

    fingerprint: str  # changes with everything that the result depends on

    def extract(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        """Return the noun phrases of each text: `text`, `start` and `end`, in characters."""
        ...


def load_triplets(
    name_or_path: str,
    split: str = "train",
    *,
    config_name: str | None = None,
    revision: str | None = None,
    require_noun_phrases: bool = True,
    columns: Sequence[str] | None = (),
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
            If `False`, a missing `noun_phrases` column becomes a column of empty lists.
        columns (`Sequence[str]`, *optional*): Further columns to keep; with `None` all that there are.

    Returns:
        `datasets.Dataset`: The columns of `TRIPLET_FEATURES` and the further ones, with undecoded images
        (`Image(decode=False)`) and integer ids as strings.

    Raises:
        `ValueError`: A file is damaged (the first is named), a column is missing or has another type, or a row (named
            with its id) has a duplicate or empty id, an empty text, or a noun phrase that differs from its span of the
            text.
    """
    where = f"{name_or_path} (split {split!r})"
    try:
        dataset = datasets.load_dataset(
            name_or_path, config_name, split=split, revision=revision, cache_dir=cache_of(name_or_path)
        )
    except (pa.ArrowException, DatasetGenerationError) as error:
        problem = next(_damaged_files(Path(name_or_path)), None)
        if problem is None:
            raise
        raise ValueError(f"{where}: {problem}. Write or download it again.") from error
    from_image_folder = {"reference", "target"} <= set(dataset.column_names)  # `datasets` makes these of `*_file_name`
    if from_image_folder:
        dataset = dataset.rename_columns({"reference": "reference_image", "target": "target_image"})
    check_types(dataset.features, where)
    if from_image_folder:
        dataset = _with_ids(dataset, name_or_path, where)
    for name in ("id", "reference_id", "target_id"):
        if isinstance(got := dataset.features.get(name), Value) and _without_width(got.dtype) == "int":
            dataset = dataset.cast_column(name, Value("string"))
    if "noun_phrases" not in dataset.column_names and not require_noun_phrases:
        dataset = dataset.add_column("noun_phrases", [[]] * len(dataset), feature=TRIPLET_FEATURES["noun_phrases"])

    kept = kept_columns(dataset.column_names if columns is None else columns, dataset.column_names)
    check_columns(kept, dataset.column_names, where)
    dataset = _undecoded(dataset.select_columns(kept))
    if PHRASE_MAPS in kept and dataset.features[PHRASE_MAPS] != MAPS_FEATURE:
        dataset = dataset.cast_column(PHRASE_MAPS, MAPS_FEATURE)
    _check_rows(dataset, where)
    return dataset


def mix_triplets(parts: Sequence[datasets.Dataset], weights: Sequence[float], *, seed: int = 0) -> datasets.Dataset:
    """
    Concatenate data sets, each repeated or sampled by its weight, like the aggregated data of ConText-CIR.

    Args:
        parts (`Sequence[datasets.Dataset]`): As from [`load_triplets`]. Equal image ids must mean equal images, also
            in different parts. A batch that violates this is an error.
        weights (`Sequence[float]`): 1 takes each row of a part once, 2 twice, 0.5 a random half in the same order.
        seed (`int`, defaults to 0): Seed of the samples.

    Returns:
        `datasets.Dataset`: The parts one after the other.

    Raises:
        `ValueError`: A weight is not positive or so small that no row remains.
    """
    chosen = []
    for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
        count = round(weight * len(part)) if weight > 0 else 0
        if not count:
            raise ValueError(f"The weight {weight} leaves no row of data set {number} with its {len(part)} triplets.")
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
        dataset (`datasets.Dataset`): Triplets. An existing `noun_phrases` column is replaced. If its phrases differ,
            `phrase_maps`, which belong to them, are left out, and `phrase_maps_fit`.
        extractor ([`PhraseExtractor`]): Called once for each distinct text.
        batch_size (`int`, defaults to 2000): Number of rows per call.

    Returns:
        `tuple[datasets.Dataset, dict]`: The triplets with the columns of `TRIPLET_FEATURES` and all others that they
        have, and counts: `rows`, `distinct_texts`, `noun_phrases` and `without_noun_phrase` (such triplets are valid
        and have no consistency loss).
    """
    known: dict[str, list[dict[str, Any]]] = {}

    def extract(texts: list[str]) -> dict[str, list]:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, extractor.extract(new), strict=True))
        return {"noun_phrases": [known[text] for text in texts]}

    before = dataset["noun_phrases"][:] if PHRASE_MAPS in dataset.column_names else None
    dataset = dataset.map(
        extract,
        input_columns="modification_text",
        batched=True,
        batch_size=batch_size,
        features=Features(dataset.features | {"noun_phrases": TRIPLET_FEATURES["noun_phrases"]}),
        new_fingerprint=Hasher.hash((dataset._fingerprint, extractor.fingerprint)),
        desc="Finding noun phrases",
    )
    if before is not None and dataset["noun_phrases"][:] != before:
        dataset = dataset.remove_columns([name for name in (PHRASE_MAPS, MAPS_FIT) if name in dataset.column_names])
    counts = [len(phrases) for phrases in dataset["noun_phrases"]]
    return dataset.select_columns(list(dict.fromkeys([*TRIPLET_FEATURES, *dataset.column_names]))), {
        "rows": len(counts),
        "distinct_texts": len(dataset.unique("modification_text")),
        "noun_phrases": sum(counts),
        "without_noun_phrase": counts.count(0),
    }


def embedded_rows(dataset: datasets.Dataset) -> Iterator[dict[str, Any]]:
    """Yield the rows of triplets with the content of all image files, byte for byte. An
    [`~contextcir.data.images.ImageError`] names the triplet and column of a missing file."""
    shown = _image_columns(dataset)
    for row in _undecoded(dataset):
        files = {
            name: encoded_file(row[name], f"triplet {row['id']!r}, {name}")
            for name in shown
            if name in IMAGE_COLUMNS or row[name] is not None
        }
        yield row | files


def stored_features(features: Features) -> Features:
    """Return the columns of triplets as they are written: those of `TRIPLET_FEATURES` that there are, then the others,
    and images that decode."""
    ours = {name: kind for name, kind in TRIPLET_FEATURES.items() if name in features}
    others = {name: kind for name, kind in features.items() if name not in ours}
    return Features(ours | {name: Image() if isinstance(kind, Image) else kind for name, kind in others.items()})


def kept_columns(further: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the columns of triplets, then further ones. Maps bring the `image_fit` that they are of, if known."""
    kept = list(dict.fromkeys([*TRIPLET_FEATURES, *further]))
    return kept + [MAPS_FIT] * (PHRASE_MAPS in kept and MAPS_FIT in known and MAPS_FIT not in kept)


def check_types(features: Features, where: str) -> None:
    """Refuse columns of triplets whose type does not fit, with a `ValueError`. Ids may be integers."""
    for name, expected in (TRIPLET_FEATURES | {PHRASE_MAPS: MAPS_FEATURE}).items():
        got = features.get(name)
        is_number = name.endswith("id") and isinstance(got, Value) and _without_width(got.dtype) == "int"
        if got is not None and not is_number and not _fits(got, expected):
            raise ValueError(f"{where}: column {name} has type {got}, expected {expected}. Cast or rebuild it.")


def check_columns(needed: Sequence[str], there: Sequence[str], where: str) -> None:
    """Refuse triplets that lack columns, with a `ValueError` that says what adds them."""
    missing = [name for name in needed if name not in there]
    if missing:
        hint = " `contextcir phrases` adds noun_phrases." if "noun_phrases" in missing else ""
        hint += " `contextcir mine` adds negative_ids." if "negative_ids" in missing else ""
        hint += f" `contextcir ground` adds {PHRASE_MAPS}." if PHRASE_MAPS in missing else ""
        raise ValueError(f"{where}: no column {', '.join(missing)}; there are {', '.join(there)}.{hint}")


def _damaged_files(folder: Path) -> Iterator[str]:
    """Yield a description of each damaged file in a folder. Each file is read to its end."""
    if not folder.is_dir():
        return
    for name in files_in(folder, [".parquet"]):
        path = folder / name
        try:
            for _ in pq.ParquetFile(path).iter_batches():
                pass
        except (pa.ArrowException, OSError) as error:
            yield f"{path} is damaged ({error})"
    for name in files_in(folder, ["metadata.jsonl"]):
        path = folder / name
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                json.loads(line)
            except ValueError as error:
                yield f"{path}, line {number} is damaged ({error})"


def _fits(got: Any, expected: Any) -> bool:
    """Return whether one type of column can serve as another. Widths of integers and texts may differ, and null fits
    every type."""
    if isinstance(got, Value) and got.dtype == "null":
        return True
    if isinstance(expected, Image):
        stored = (Value("string"), Value("binary"), {"bytes": Value("binary"), "path": Value("string")})
        return isinstance(got, Image) or any(_fits(got, kind) for kind in stored)
    if isinstance(expected, dict):
        return isinstance(got, dict) and all(name in got and _fits(got[name], expected[name]) for name in expected)
    if isinstance(expected, List):
        return isinstance(got, (List, LargeList)) and _fits(got.feature, expected.feature)
    return isinstance(got, Value) and _without_width(got.dtype) == _without_width(expected.dtype)


def _without_width(dtype: str) -> str:
    return re.sub(r"^(u|large_)|\d+$", "", dtype)


def _with_ids(dataset: datasets.Dataset, name_or_path: str, where: str) -> datasets.Dataset:
    """Add missing ids to an image folder: the file names, and the row numbers."""
    dataset = _undecoded(dataset)
    for name in ("reference", "target"):
        paths: list[Any] = [(image or {}).get("path") for image in dataset[f"{name}_image"]]
        if None in paths:
            raise ValueError(
                f"{where}, row {paths.index(None)}: {name}_file_name is empty. Name an image or remove the row."
            )
        if f"{name}_id" not in dataset.column_names:
            if os.path.isdir(name_or_path):
                # As on disk: two spellings of one name are one image.
                paths = [os.path.relpath(existing_path(path), name_or_path) for path in paths]
            dataset = dataset.add_column(f"{name}_id", paths)
    if "id" not in dataset.column_names:
        dataset = dataset.add_column("id", [str(row) for row in range(len(dataset))])
    return dataset


def _image_columns(dataset: datasets.Dataset) -> list[str]:
    found = [name for name, kind in dataset.features.items() if isinstance(kind, Image)]
    return list(dict.fromkeys([*IMAGE_COLUMNS, *found]))


def _undecoded(dataset: datasets.Dataset) -> datasets.Dataset:
    for column in _image_columns(dataset):
        dataset = dataset.cast_column(column, Image(decode=False))
    return dataset


def _check_rows(dataset: datasets.Dataset, where: str) -> None:
    rows: dict[str, int] = {}  # of the ids
    large = [name for name in (*_image_columns(dataset), PHRASE_MAPS) if name in dataset.column_names]
    for row, triplet in enumerate(dataset.remove_columns(large)):
        at = f"{where}, row {row} (id {triplet['id']!r})"
        if (first := rows.setdefault(triplet["id"], row)) != row:
            raise ValueError(f"{at}: row {first} has the same id. Ids must be unique.")
        check_facts(triplet, at)


def check_facts(triplet: Mapping[str, Any], at: str) -> None:
    """Refuse, with a `ValueError` that begins with `at`, a triplet with an empty id, an empty text, or a noun phrase
    that differs from its span of the text."""
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
