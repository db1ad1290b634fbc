"""Benchmarks in the published form, as in BEIR: one dataset with the configurations `gallery`, `queries`, `relevance`.

It is a folder of Parquet files, or a dataset on the Hub, with the images inside. [`publish`] writes it.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Image, List, Value, get_dataset_split_names, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choices
from contextcir.data.dataset_cache import cache_of
from contextcir.data.images import stored_image
from contextcir.data.parquet import write_parquet
from contextcir.retrieval.base import Gallery, Query

STRING = Value("string")
FEATURES = {  # configuration -> columns
    "gallery": Features({"id": STRING, "image": Image()}),
    "queries": Features(
        {
            "id": STRING,
            "reference_image": Image(),
            "reference_id": STRING,
            "modification_text": STRING,
            "candidate_ids": List(STRING),
            "tags": List(STRING),
        }
    ),
    "relevance": Features({"query_id": STRING, "target_id": STRING}),
}
STRINGS = {"id", "query_id", "target_id", "modification_text"}  # of every row
OPTIONAL_COLUMNS = {"reference_image", "candidate_ids", "tags"}
SOURCE = "your own data: the configurations gallery, queries and relevance, see contextcir/benchmarks/published.py"
SPLITS = ("test", "validation")
PROTOCOLS = ("reference-excluded", "reference-kept")


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """Return the one part that [`load_published`] reads."""
    return [load_published(path, split, protocol=protocol)]


def load_published(path: str, split: str, *, name: str | None = None, protocol: str = PROTOCOLS[0]) -> Benchmark:
    """
    Read a benchmark in the published form.

    Args:
        path (`str`): A folder with `<configuration>/<split>-*.parquet`, or the name of a dataset on the Hub.
        split (`str`): For example `validation` or `test`.
        name (`str`, *optional*): Name of the benchmark; by default the last part of the path.
        protocol (`str`, *optional*): `reference-excluded` removes the reference from the ranking (default);
            `reference-kept` keeps it.

    Returns:
        `Benchmark`: The images are encoded bytes that are read on access. The protocol id consists of name, a digest
        of the data, split and protocol. Without `relevance` for the split, the benchmark is not scored.

    Raises:
        `ValueError`: The protocol is unknown, there is no such dataset, split or column, or the data are inconsistent.
    """
    name = name or Path(os.path.abspath(path)).name
    check_choices(name, protocol=(protocol, PROTOCOLS))
    gallery, queries = (load_config(path, config, split, FEATURES[config]) for config in ("gallery", "queries"))
    targets: dict[str, set[str]] = {}
    if _has_targets(path, split):
        relevance = load_config(path, "relevance", split, FEATURES["relevance"])
        for query_id, target_id in zip(relevance["query_id"], relevance["target_id"], strict=True):
            targets.setdefault(query_id, set()).add(target_id)
    return Benchmark(
        name=name,
        protocol_id=f"{name}-{_digest(gallery, queries, targets)}/{split}/{protocol}",
        gallery=Gallery(gallery["id"], gallery["image"]),
        queries=[
            Query(
                id=row["id"],
                modification_text=row["modification_text"],
                reference_image=row.get("reference_image"),
                reference_id=row["reference_id"],
                candidate_ids=tuple(row.get("candidate_ids") or ()),
                tags=tuple(row.get("tags") or ()),
            )
            for row in queries
        ],
        relevance=targets,
        exclude_reference=protocol == "reference-excluded",
    )


def _digest(gallery: Dataset, queries: Dataset, targets: dict[str, set[str]]) -> str:
    """Compute 8 hex digits over ids, texts, targets and sizes of the image files. The content of the images is left
    out, since reading a large gallery takes minutes."""
    digest = hashlib.sha256()
    for config, data in (("gallery", gallery), ("queries", queries)):
        for name in sorted(FEATURES[config].keys() & set(data.column_names)):
            column = data.with_format("arrow")[name]
            if name in ("image", "reference_image"):
                column = pc.binary_length(pc.struct_field(column, "bytes"))
            digest.update(json.dumps([name, column.to_pylist()]).encode())
    digest.update(json.dumps({id_: sorted(some) for id_, some in sorted(targets.items())}).encode())
    return digest.hexdigest()[:8]


def publish(parts: Sequence[Benchmark], folder: str | Path, split: str) -> dict[str, int]:
    """
    Write a benchmark in the published form. Image files are copied byte for byte.

    Args:
        parts (`Sequence[Benchmark]`): From any `load`. Each of several parts becomes a split `<split>_<part>`.
        folder (`str` or `Path`): Gets the folders `gallery`, `queries` and `relevance`.
        split (`str`): Name of the split.

    Returns:
        `dict[str, int]`: `<configuration> <split>` -> number of rows.

    Raises:
        `ImageError`: An image cannot be read.
    """
    counts = {}
    for part in parts:
        name = f"{split}_{part.part}" if len(parts) > 1 else split
        rows = {
            "gallery": (
                {"id": id_, "image": stored_image(image, f"gallery image {id_!r}")}
                for id_, image in zip(part.gallery.ids, part.gallery.images, strict=True)
            ),
            "queries": (_query_row(query, part.gallery) for query in part.queries),
            "relevance": (
                {"query_id": query.id, "target_id": target}
                for query in part.queries
                for target in sorted(part.relevance.get(query.id, ()))
            ),
        }
        for config, features in FEATURES.items():
            counts[f"{config} {name}"] = write_parquet(rows[config], features, Path(folder, config), name).rows
    return counts


def _query_row(query: Query, gallery: Gallery) -> dict[str, Any]:
    # An image of the gallery is not stored again.
    in_gallery = query.reference_id in gallery.positions or not query.has_reference
    return {
        "id": query.id,
        "reference_image": None if in_gallery else stored_image(query.reference_image, f"reference of {query.id!r}"),
        "reference_id": query.reference_id,
        "modification_text": query.modification_text,
        "candidate_ids": list(query.candidate_ids),
        "tags": list(query.tags),
    }


def _has_targets(path: str, split: str) -> bool:
    """Whether `relevance` has the split. `datasets` has no splits without rows."""
    if Path(path).is_dir():
        return any(Path(path, "relevance").glob(f"{split}-*.parquet"))
    return split in get_dataset_split_names(path, "relevance")


def load_config(path: str, config: str, split: str, features: Features) -> Dataset:
    """
    Read one configuration of a dataset, with images as encoded bytes.

    Args:
        path (`str`): A folder with `<config>/<split>-*.parquet`, or the name of a dataset on the Hub.
        config (`str`): For example `gallery`.
        split (`str`): For example `test`.
        features (`Features`): The expected columns. Those in `OPTIONAL_COLUMNS` may be missing.

    Returns:
        `Dataset`

    Raises:
        `ValueError`: There is no such dataset, split or column; a file is damaged.
    """
    if Path(path).is_dir():
        if not (files := sorted(map(str, Path(path, config).glob(f"{split}-*.parquet")))):
            splits = sorted({file.name.split("-0")[0] for file in Path(path, config).glob("*.parquet")})
            raise ValueError(
                f"{path} has no {config}/{split}-*.parquet. Splits that it has: {', '.join(splits) or 'none'}."
                + ("" if splits else " Build it first, or check the path.")
            )
        try:
            dataset = load_dataset("parquet", data_files={split: files}, split=split)
        except (DatasetGenerationError, pa.ArrowInvalid) as error:  # of its rows, of its schema
            reason = error.__cause__ or error
            raise ValueError(
                f"{path}, {config}: {split}-*.parquet cannot be read: {reason}. Build it again."
            ) from error
    else:
        try:
            dataset = load_dataset(path, config, split=split, cache_dir=cache_of(str(path)))
        except (DatasetNotFoundError, ConnectionError) as error:
            raise ValueError(
                f"{path!r} is neither a folder here nor a dataset that can be read from the Hub."
            ) from error
    if missing := sorted(features.keys() - OPTIONAL_COLUMNS - set(dataset.column_names)):
        raise ValueError(f"{path}, {config}: the columns {missing} are missing; there are {dataset.column_names}.")
    for column in sorted(STRINGS & features.keys()):
        _check_strings(dataset, column, f"{path}, {config}, {split}")
    for column in {"image", "reference_image"} & set(dataset.column_names):
        dataset = dataset.cast_column(column, Image(decode=False))
    return dataset


def _check_strings(dataset: Dataset, name: str, where: str) -> None:
    """Raise a `ValueError` if a column that must have a string in each row holds something else."""
    column, found = dataset.with_format("arrow")[name], dataset.features[name]
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ValueError(f"{where}: the column {name!r} holds {found}, expected strings.")
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise ValueError(f"{where}, row {row}, key {name!r}: got null, expected a string. {column.null_count:,} are.")
