"""Write triplets with another column, into a new folder or in place of the files that they were read from."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from contextcir.data.parquet import write_parquet
from contextcir.data.source_card import write_derived_card


def files_to_replace(
    data: str, config_name: str | None, splits: Sequence[str], folder: Path, column: str
) -> dict[str, list[Path]]:
    """
    The older Parquet files of each split in the folder that is written to. Where it is the data's own, whatever its
    layout, these are the very files that the split is read from.

    Raises:
        `ValueError`: The data's own folder could not be read any more with the column, or would hold the triplets
            twice.
    """
    import datasets

    if not folder.is_dir() or folder.resolve() != Path(data).resolve():
        return {split: sorted(folder.glob(f"{split}-*.parquet")) for split in splits}
    builder = datasets.load_dataset_builder(data, config_name)
    files = {str(split): [Path(path) for path in paths] for split, paths in builder.config.data_files.items()}
    others = [path.name for paths in files.values() for path in paths if path.suffix != ".parquet"]
    problem = None
    if others:
        problem = f"it is read from {others[0]}, which is no Parquet file"
    elif builder.info.features is not None and column not in builder.info.features:
        problem = f"the columns that its README.md lists in the header have no {column}"
    if problem:
        raise ValueError(f"{data} cannot be changed in place: {problem}. Write to another folder with --output_dir.")
    return files


def write_split(
    rows: Iterable[dict[str, Any]], features: Any, folder: Path, split: str, files: Sequence[Path]
) -> None:
    """Write the rows of a split, in place of its older `files`."""
    # A card or a sub-folder may say which file belongs to which split: the first one's name is kept.
    first = files[0] if files else folder / f"{split}-00000-of-00001.parquet"
    file = re.sub(r"-\d{5}-of-\d{5}(?=\.parquet$)", "-00000-of-00001", first.name)
    write_parquet(rows, features, first.parent, split, file=file, replaces=files)


def write_card(folder: Path, source: str, note: str, rows: int) -> None:
    """Write the card of a new folder. A folder that was changed in place keeps its own."""
    if folder.resolve() != Path(source).resolve():
        write_derived_card(folder, folder.resolve().name, note, source=source, rows=rows)
