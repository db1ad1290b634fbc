"""Write rows with images into Parquet files. An interrupted write changes nothing."""

import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetInfo, Features, SplitDict, SplitInfo

ROWS_PER_GROUP = 100  # held in memory with their images, and the smallest number that a reader can load
SHARD_BYTES = 500_000_000
# Rows with the same images are adjacent. With pages of this size and a compression window as large, repeated images
# take almost no space.
OPTIONS = {"compression": "zstd", "compression_level": 9, "data_page_size": 8_000_000, "use_dictionary": False}


class Written(NamedTuple):
    """Result of [`write_parquet`]: the number of rows, and an entry for the header of the dataset card. `datasets`
    identifies the version of a data set by that entry. Without it, it may return the rows of an earlier version from
    its cache."""

    rows: int
    info: DatasetInfo


def write_parquet(
    rows: Iterable[dict[str, Any]],
    features: Features,
    folder: str | Path,
    split: str,
    *,
    file: str | None = None,
    replaces: Iterable[Path] | None = None,
) -> Written:
    """
    Write rows into files of about 500 MB each, `<split>-<shard>.parquet`.

    The files appear in the folder after the last row is written. If `rows` raises an error or the program is
    interrupted, the older files stay and the unfinished ones are deleted.

    Args:
        rows (`Iterable[dict]`): With all columns of `features`; images as `{"bytes", "path"}`. At most 100 are held in
            memory. Without rows no file is written, since `datasets` cannot read empty splits.
        features (`Features`): The columns.
        folder (`str` or `Path`): Created if it does not exist.
        split (`str`): Name of the split.
        file (`str`, *optional*): Name of a single file for all rows, of any size.
        replaces (`Iterable[Path]`, *optional*): Older files to delete; by default those of the split in the folder.

    Returns:
        [`Written`]
    """
    folder, count = Path(folder), 0
    unfinished = folder / f".{file or split}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a program that was killed
    unfinished.mkdir(parents=True)
    try:
        schema, rows = features.arrow_schema, iter(rows)
        shards: list[Path] = []
        group = list(islice(rows, ROWS_PER_GROUP))
        while group:
            shards.append(unfinished / (file or f"{split}-{len(shards):05d}.parquet"))
            with open(shards[-1], "wb") as shard, pq.ParquetWriter(shard, schema, **OPTIONS) as writer:
                while group:
                    writer.write_table(pa.Table.from_pylist(group, schema=schema))
                    count += len(group)
                    group = list(islice(rows, ROWS_PER_GROUP))
                    if shard.tell() >= SHARD_BYTES and not file:
                        break
        size = sum(path.stat().st_size for path in shards)
        written = {path.replace(folder / path.name).resolve() for path in shards}
    finally:
        shutil.rmtree(unfinished)
    for old in list(folder.glob(f"{split}-*.parquet") if replaces is None else replaces):
        if old.resolve() not in written:
            old.unlink()
    splits = SplitDict({split: SplitInfo(split, num_bytes=size, num_examples=count)})
    return Written(count, DatasetInfo(features=features, splits=splits, download_size=size, dataset_size=size))
