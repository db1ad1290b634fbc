"""Triplets that are read while they are used: from the Hub, Parquet files or WebDataset archives, by `datasets`."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import datasets
from datasets import Features, Image

from contextcir.data.triplets import (
    MAPS_FEATURE,
    PHRASE_MAPS,
    TRIPLET_FEATURES,
    check_columns,
    check_facts,
    check_types,
    kept_columns,
)

UNDECODED = Features(
    {name: Image(decode=False) if isinstance(kind, Image) else kind for name, kind in TRIPLET_FEATURES.items()}
)
CHUNK = 100  # rows that are checked at once
_ARCHIVED_IMAGE = re.compile(r"(reference|target)\.\w+")


def stream_triplets(
    name_or_path: str,
    split: str = "train",
    *,
    config_name: str | None = None,
    revision: str | None = None,
    require_noun_phrases: bool = True,
    columns: Sequence[str] = (),
) -> datasets.IterableDataset:
    """
    Open triplets that are read while they are used: from the Hub, or from a folder of Parquet files or of WebDataset
    archives. Nothing is copied to this disk, and rows are checked as they come.

    In a WebDataset archive (tar), a triplet is three files: `KEY.reference.jpg`, `KEY.target.jpg` (or another format)
    and `KEY.json` with `modification_text` and, where there are, `noun_phrases`, `id`, `reference_id`, `target_id` and
    further columns. All have the same entries. `id` defaults to the key, the others to the names of the images.

    Args:
        name_or_path (`str`): Hub name or local folder.
        split (`str`, defaults to `"train"`): A whole split.
        config_name (`str`, *optional*): Configuration of the data set, such as `"triplets"`.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        require_noun_phrases (`bool`, defaults to `True`):
            If `False`, a missing `noun_phrases` column becomes a column of empty lists.
        columns (`Sequence[str]`, *optional*): Further columns to keep.

    Returns:
        `datasets.IterableDataset`: As [`~contextcir.data.triplets.load_triplets`] returns them. That ids are unique is
        not checked.

    Raises:
        `ValueError`: The split is a part of one, or a column is missing or has another type; and while the rows are
            read, as for `load_triplets`.
    """
    where = f"{name_or_path} (split {split!r})"
    if "[" in split:
        raise ValueError(f"{where}: a stream cannot be cut into parts. Name a whole split.")
    rows = datasets.load_dataset(name_or_path, config_name, split=split, revision=revision, streaming=True)
    if rows.features is None:  # JSON and CSV say nothing of themselves
        rows = rows._resolve_features()
    kinds = dict(rows.features)
    if {"reference", "target"} <= set(kinds):
        raise ValueError(f"{where}: an image folder cannot be streamed. Load it, or write it as Parquet files.")
    for name in [name for name, kind in kinds.items() if isinstance(kind, Image)]:
        rows = rows.cast_column(name, Image(decode=False))
    archived = {match[1]: name for name in kinds if (match := _ARCHIVED_IMAGE.fullmatch(name))}
    if "__key__" in kinds:
        if set(archived) != {"reference", "target"} or not isinstance(kinds.get("json"), dict):
            raise ValueError(
                f"{where}: expected KEY.reference.jpg, KEY.target.jpg and KEY.json of each triplet, got files with the"
                f" ends {', '.join(name for name in kinds if not name.startswith('__'))}."
            )
        given = {"id": UNDECODED["id"], "reference_id": UNDECODED["id"], "target_id": UNDECODED["id"]}
        kinds = given | kinds["json"] | {f"{side}_image": Image() for side in archived}
    check_types(Features(kinds), where)
    kept, ours = kept_columns(columns, list(kinds)), UNDECODED | {PHRASE_MAPS: MAPS_FEATURE}
    check_columns([name for name in kept if name != "noun_phrases" or require_noun_phrases], list(kinds), where)
    return rows.map(
        partial(_as_triplets, where=where, kept=kept, archived=archived),
        batched=True,
        batch_size=CHUNK,
        remove_columns=list(rows.features),
        features=Features({name: ours.get(name) or kinds[name] for name in kept}),
    )


def mix_streams(
    parts: Sequence[datasets.IterableDataset], weights: Sequence[float] | None, *, seed: int = 0
) -> datasets.IterableDataset:
    """
    Draw each row from one of several streams.

    Args:
        parts (`Sequence[datasets.IterableDataset]`): As from [`stream_triplets`]. Equal image ids must mean equal
            images, also in different parts.
        weights (`Sequence[float]`): Shares of the rows that come from each part; 1 and 3 are a quarter and the rest. A
            part that ends before the others begins again.
        seed (`int`, defaults to 0): Seed of the draw.

    Raises:
        `ValueError`: The weights of several parts are missing, one is not positive, or there is one part alone.
    """
    if len(parts) == 1 and not weights:
        return parts[0]
    if not weights or min(weights) <= 0 or len(parts) == 1:
        raise ValueError(
            f"data_weights are {weights} for {len(parts)} streams. Several need a positive share of the rows for each,"
            " such as 1 3 for a quarter and the rest; a single one has none."
        )
    shares = [weight / sum(weights) for weight in weights]
    return datasets.interleave_datasets(
        list(parts), probabilities=shares, seed=seed, stopping_strategy="all_exhausted"
    )


def _as_triplets(
    batch: dict[str, list[Any]], where: str, kept: Sequence[str], archived: dict[str, str]
) -> dict[str, list[Any]]:
    """Return the columns of triplets, checked."""
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    triplets = [_from_archive(row, archived) if archived else row for row in rows]
    for row in triplets:
        row.setdefault("noun_phrases", [])
        for name in ("id", "reference_id", "target_id"):
            row[name] = "" if row[name] is None else str(row[name])
        for name in ("reference_image", "target_image"):
            row[name] = _stored(row[name])
        check_facts(row, f"{where}, id {row['id']!r}")
    return {name: [row.get(name) for row in triplets] for name in kept}


def _from_archive(row: dict[str, Any], archived: dict[str, str]) -> dict[str, Any]:
    names = {side: f"{row['__key__']}.{name}" for side, name in archived.items()}
    ids = {"id": row["__key__"]} | {f"{side}_id": name for side, name in names.items()}
    given = {name: value for name, value in row["json"].items() if value is not None}
    return ids | given | {f"{side}_image": row[name] for side, name in archived.items()}


def _stored(image: Any) -> Any:
    """Return an image as `Image(decode=False)` gives it."""
    if isinstance(image, str):
        return {"bytes": None, "path": image}
    return {"bytes": image, "path": None} if isinstance(image, bytes) else image
