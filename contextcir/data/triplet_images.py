"""The images of triplets, read through the one hardened intake, and a look at all of them beforehand.

`datasets` would decode them itself, and end an iteration at the first broken one.
"""

import os
from pathlib import Path
from typing import Any

import datasets
import PIL
import pyarrow.compute as pc
from datasets import Features, Value
from datasets.fingerprint import Hasher
from PIL import Image as PILImage

from contextcir.data import images
from contextcir.data.images import ImageError, load_image
from contextcir.data.triplets import IMAGE_COLUMNS


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
    """The image in a column of a triplet; an [`~contextcir.data.images.ImageError`] names both."""
    path = triplet[column].get("path") if isinstance(triplet[column], dict) else None
    return load_image(triplet[column], name=f"triplet {triplet['id']!r}, {column}" + (f" ({path})" if path else ""))
