"""Write rows with images into Parquet files. Readers see the old files or the new ones, never half of one."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetInfo, Features, SplitDict, SplitInfo

ROWS_PER_GROUP = 100  # held in memory with their images, and the least that a reader has to read
SHARD_BYTES = 500_000_000
# Rows that hold the same images stand one after the other. With pages of this size and a compression that looks back
# as far, all but the first of them take next to no space.
OPTIONS = {"compression": "zstd", "compression_level": 9, "data_page_size": 8_000_000, "use_dictionary": False}


@dataclass(frozen=True)
class Written:
    """
    What was written of a split.

    Args:
        rows (`int`): How many rows.
        size (`int`): Bytes of all files.
        features (`Features`): Their columns.
        split (`str`): Name of the split.
    """

    rows: int
    size: int
    features: Features
    split: str

    def info(self) -> DatasetInfo:
        """`DatasetInfo`: For the header of a card. `datasets` tells versions of a data set apart by it, and would
        otherwise return the rows of an earlier one from its cache."""
        splits = SplitDict({self.split: SplitInfo(self.split, num_bytes=self.size, num_examples=self.rows)})
        return DatasetInfo(features=self.features, splits=splits, download_size=self.size, dataset_size=self.size)


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
    Write rows into files of at most about 500 MB, `<split>-<shard>.parquet`.

    Args:
        rows (`Iterable[dict]`): With all columns of `features`; images as `{"bytes", "path"}`. At most 100 are held in
            memory. Without rows there is no file, since `datasets` reads no empty splits.
        features (`Features`): The columns.
        folder (`str` or `Path`): Made where need be.
        split (`str`): The first part of the names.
        file (`str`, *optional*): Name of the one file to write, whatever its size.
        replaces (`Iterable[Path]`, *optional*): Files that the new ones replace; by default those of the split in the
            folder.

    Returns:
        [`Written`]
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    schema, rows, unfinished, count = features.arrow_schema, iter(rows), [], 0
    group = list(islice(rows, ROWS_PER_GROUP))
    while group:
        unfinished.append(folder / f".{file or f'{split}-{len(unfinished):05d}.parquet'}")
        with open(unfinished[-1], "wb") as shard, pq.ParquetWriter(shard, schema, **OPTIONS) as writer:
            while group:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                count += len(group)
                group = list(islice(rows, ROWS_PER_GROUP))
                if shard.tell() >= SHARD_BYTES and not file:
                    break
    size = sum(path.stat().st_size for path in unfinished)
    for old in list(folder.glob(f"{split}-*.parquet") if replaces is None else replaces):
        old.unlink()
    for path in unfinished:
        path.rename(path.with_name(path.name.removeprefix(".")))
    return Written(count, size, features, split)
