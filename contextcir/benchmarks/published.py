"""Any benchmark in the published form, as in BEIR: the configurations `gallery`, `queries` and `relevance` of one
dataset.

A folder of Parquet files or a dataset on the Hub, images inside. `datasets_scripts/` builds such.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, Features, Image, List, Value, get_dataset_split_names, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choice
from contextcir.data.images import stored_image
from contextcir.data.parquet import write_parquet
from contextcir.retrieval.base import Gallery, Query

FEATURES = {  # the published form
    "gallery": Features({"id": Value("string"), "image": Image()}),
    "queries": Features(
        {
            "id": Value("string"),
            "reference_image": Image(),
            "reference_id": Value("string"),
            "modification_text": Value("string"),
            "candidate_ids": List(Value("string")),
            "tags": List(Value("string")),
        }
    ),
    "relevance": Features({"query_id": Value("string"), "target_id": Value("string")}),
}
OPTIONAL_COLUMNS = {"reference_image", "candidate_ids", "tags"}


SOURCE = "your own data: the configurations gallery, queries and relevance, see contextcir/benchmarks/published.py"
SPLITS = ("test", "validation")
PROTOCOLS = ("reference-excluded", "reference-kept")


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """One part, as from [`load_published`]; the images are inside the files, so that none can be missing."""
    check_choice("custom", "protocols", protocol, PROTOCOLS)
    return [load_published(path, split, exclude_reference=protocol == PROTOCOLS[0])]


def load_published(
    path: str, split: str, *, name: str | None = None, protocol_id: str | None = None, exclude_reference: bool = True
) -> Benchmark:
    """
    Read a benchmark in the published form: the configurations `gallery`, `queries` and `relevance` of one dataset.

    Args:
        path (`str`): A folder with `gallery/<split>-*.parquet` and so on, or the name of a dataset on the Hub.
        split (`str`): Such as `validation` or `test`.
        name (`str`, *optional*): By default the last part of the path.
        protocol_id (`str`, *optional*): By default made of name, a digest of the data, split, and whether the
            reference is excluded.
        exclude_reference (`bool`, *optional*, defaults to `True`): Whether the reference leaves the ranking.

    Returns:
        `Benchmark`: With images as encoded bytes, read when asked for. Without `relevance` of the split, unscored.

    Raises:
        `ValueError`: There is no such dataset, split or column (the message names those that exist), or the data
            contradict themselves.
    """
    name = name or Path(path).name
    gallery, queries = (load_config(path, config, split, FEATURES[config]) for config in ("gallery", "queries"))
    targets: dict[str, set[str]] = {}
    if _has_targets(path, split):
        relevance = load_config(path, "relevance", split, FEATURES["relevance"])
        for query_id, target_id in zip(relevance["query_id"], relevance["target_id"], strict=True):
            targets.setdefault(query_id, set()).add(target_id)
    metrics = {"recall": (1, 5, 10, 50)}
    if any(queries["candidate_ids"] if "candidate_ids" in queries.column_names else ()):
        metrics["recall_subset"] = (1, 2, 3)
    if any(len(some) > 1 for some in targets.values()):
        metrics["map"] = (5, 10, 25, 50)
    rule = "excluded" if exclude_reference else "kept"
    return Benchmark(
        name=name,
        protocol_id=protocol_id or f"{name}-{_digest(gallery, queries, targets)}/{split}/reference-{rule}",
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
        exclude_reference=exclude_reference,
        metrics=metrics,
    )


def _digest(gallery: Dataset, queries: Dataset, targets: dict[str, set[str]]) -> str:
    """8 hex digits of ids, texts, targets and the sizes of the image files: different data get different ids. The
    content of images is left out, since reading a large gallery takes minutes."""
    digest = hashlib.sha256()
    for data in (gallery, queries):
        for name in sorted(set(data.column_names) & {*FEATURES["gallery"], *FEATURES["queries"]}):
            column = data.with_format("arrow")[name]
            if name in ("image", "reference_image"):
                column = pc.binary_length(pc.struct_field(column, "bytes"))
            digest.update(json.dumps([name, column.to_pylist()]).encode())
    digest.update(json.dumps({id_: sorted(some) for id_, some in sorted(targets.items())}).encode())
    return digest.hexdigest()[:8]


def publish(parts: Sequence[Benchmark], folder: str | Path, split: str) -> dict[str, int]:
    """
    Write a benchmark in the published form, image files as they are.

    Args:
        parts (`Sequence[Benchmark]`): From any `load`. Where there are several, each becomes a split of its own,
            `<split>_<part>`.
        folder (`str` or `Path`): Gets the folders `gallery`, `queries` and `relevance`.
        split (`str`): Name of the split.

    Returns:
        `dict[str, int]`: Rows of each file, by `<config> <split>`.

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
    # The image itself is stored only where the gallery does not have it.
    inside = query.reference_id in gallery.positions or not query.has_reference
    return {
        "id": query.id,
        "reference_image": None if inside else stored_image(query.reference_image, f"reference of {query.id!r}"),
        "reference_id": query.reference_id,
        "modification_text": query.modification_text,
        "candidate_ids": list(query.candidate_ids),
        "tags": list(query.tags),
    }


def _has_targets(path: str, split: str) -> bool:
    """Whether there is relevance of the split; `datasets` has no splits without rows."""
    if Path(path).is_dir():
        return any(Path(path, "relevance").glob(f"{split}-*.parquet"))
    return split in get_dataset_split_names(path, "relevance")


def load_config(path: str, config: str, split: str, features: Features) -> Dataset:
    """
    Read one configuration of a dataset, images as encoded bytes.

    Args:
        path (`str`): A folder with `<config>/<split>-*.parquet`, or the name of a dataset on the Hub.
        config (`str`): Such as `gallery`.
        split (`str`): Such as `test`.
        features (`Features`): The columns that it must have, but for a few.

    Returns:
        `Dataset`

    Raises:
        `ValueError`: as [`load_published`].
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
        except DatasetGenerationError as error:
            reason = error.__cause__ or error
            raise ValueError(
                f"{path}, {config}: {split}-*.parquet cannot be read: {reason}. Build it again."
            ) from error
    else:
        try:
            dataset = load_dataset(path, config, split=split)
        except (DatasetNotFoundError, ConnectionError) as error:
            raise ValueError(
                f"{path!r} is neither a folder here nor a dataset that can be read from the Hub."
            ) from error
    if missing := sorted(features.keys() - OPTIONAL_COLUMNS - set(dataset.column_names)):
        raise ValueError(f"{path}, {config}: the columns {missing} are missing; there are {dataset.column_names}.")
    for column in {"image", "reference_image"} & set(dataset.column_names):
        dataset = dataset.cast_column(column, Image(decode=False))
    return dataset
