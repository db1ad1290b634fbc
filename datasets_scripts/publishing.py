"""Finish a data set: its card, the printed number of rows, and the upload."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from contextcir.data.card_fields import TASKS, size_category
from contextcir.data.hub import DATA_FILES, upload_dataset

COLUMNS = {
    "id": "unique",
    "image": "an image of the gallery",
    "reference_image": "the image that is to be changed",
    "target_image": "the changed image",
    "modification_text": "what to change",
    "noun_phrases": "`text`, `start`, `end`: character spans of the modification text",
    "reference_id": "id of the reference image; equal ids are the same image",
    "target_id": "id of the target image, in the gallery",
    "candidate_ids": "images of the gallery that subset metrics rank",
    "tags": "kinds of the query, by which results are divided",
    "query_id": "id of a query",
    "gallery_id": "id of an image of the gallery",
    "kind": "the mistake that the image shows",
    "scene": "what the picture shows, as JSON",
    "nuisance": "seed of place, size, light and noise",
    "text": "a noun phrase of the modification text",
    "start": "its first character",
    "end": "the character after its last",
    "is_leaf": "whether it holds no other noun phrase",
    "role": "its part in the change",
    "things": "cells of the things that it denotes in the reference",
    "cells": "all cells that it denotes in the reference",
    "background": "whether it denotes the background",
}


def write_card(
    folder: Path,
    template: str,
    splits: Mapping[str, Sequence[str]],
    *,
    header: Mapping[str, Any],
    rows: int,
    default: str | None = None,
    **values: Any,
) -> None:
    """
    Render the card of a data set of files `<configuration>/<split>-*.parquet`.

    Args:
        folder (`Path`): The data set. The card is its `README.md`.
        template (`str`): Name of a template in `cards/`.
        splits (`Mapping[str, Sequence[str]]`): Configuration -> its splits.
        header (`Mapping[str, Any]`): Metadata: `license`, `pretty_name` and `tags`.
        rows (`int`): Rows of all configurations.
        default (`str`, *optional*): The configuration that `load_dataset` reads if none is named.
        values (`Any`): Variables of the template. It also gets `columns`, rows of a table.
    """
    configs: list[dict[str, Any]] = []
    for config, names in splits.items():
        files = [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in names]
        configs.append({"config_name": config, "data_files": files} | ({"default": True} if config == default else {}))
    path = Path(__file__).parent / "cards" / template
    about = {"language": "en", "task_categories": TASKS, "size_categories": [size_category(rows)]}
    data = DatasetCardData(**about | dict(header), configs=configs)
    values["columns"] = columns_of(folder, list(splits))
    DatasetCard.from_template(card_data=data, template_path=str(path), **values).save(folder / "README.md")


def columns_of(folder: Path, configs: Sequence[str]) -> list[tuple[str, str, str]]:
    """Describe each column of a data set: configuration, column, and what is in it. Raises a `KeyError` for a column
    that [`COLUMNS`] does not know: whoever adds one says what it is."""
    found = []
    for config in configs:
        files = sorted(folder.glob(f"{config}/*.parquet"))
        found += [(config, name, COLUMNS[name]) for name in pq.read_schema(files[0]).names]
    return found


def finish(folder: Path, counts: Mapping[str, int], push_to_hub: str | None) -> None:
    """Print the numbers of rows by name, and upload the data set if it has a name on the Hub."""
    for name, count in counts.items():
        print(f"{name}: {count:,}")
    print(f"Written: {folder}")
    if push_to_hub:
        upload_dataset(folder, push_to_hub, allow=(*DATA_FILES, "scenes.json"))
