"""Read the images of triplets through [`~contextcir.data.images.load_image`], and check all of them in advance.

`datasets` would decode images itself, and stop an iteration at the first damaged one.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import PIL
import pyarrow.compute as pc
from datasets import Features, Image, Value
from datasets.fingerprint import Hasher
from PIL import Image as PILImage

from contextcir.data import image_files, images, pixels
from contextcir.data.images import ImageError, load_image
from contextcir.data.triplets import IMAGE_COLUMNS


def find_bad_images(dataset: datasets.Dataset) -> list[dict[str, Any]]:
    """
    Decode every image once and list those that cannot be used. `datasets` caches the result until the rows, the image
    files or the code that reads images change.

    Args:
        dataset (`datasets.Dataset`): As from [`load_triplets`]; `Image` columns may also decode.

    Returns:
        `list[dict]`: `{"row", "id", "column", "error"}` of each bad image, in order of the rows.
    """
    dataset = undecoded_images(dataset)
    strings = dict.fromkeys(("id", *IMAGE_COLUMNS), Value("string"))
    checked = dataset.map(
        _image_errors,
        with_indices=True,
        remove_columns=dataset.column_names,
        features=Features({"row": Value("int64"), **strings}),
        new_fingerprint=images_fingerprint(dataset),
        desc="Checking images",
    )
    return [
        {"row": row["row"], "id": row["id"], "column": column, "error": row[column]}
        for row in checked
        for column in IMAGE_COLUMNS
        if row[column]
    ]


def images_fingerprint(dataset: datasets.Dataset, columns: Iterable[str] = IMAGE_COLUMNS) -> str:
    """Return a fingerprint of triplets, their image files and the code that reads images. The fingerprint of
    `datasets` covers only the rows, such as the paths of the files."""
    states: list[tuple[int, int, int] | None] = []  # of the files behind paths
    for column in columns:
        image = dataset.data.column(column)
        outside = pc.is_null(pc.struct_field(image, "bytes"))
        for path in pc.struct_field(image, "path").filter(outside).to_pylist():
            try:
                state = os.stat(path or "")
                states.append((state.st_size, state.st_mtime_ns, state.st_ctime_ns))
            except (OSError, ValueError):  # no such file, or no path
                states.append(None)
    code = [Path(module.__file__ or "").read_bytes() for module in (images, image_files, pixels)]
    return Hasher.hash((dataset._fingerprint, states, PIL.__version__, code))


def undecoded_images(dataset: Any) -> Any:
    """Return a data set or stream of `datasets` whose `Image` columns of triplets do not decode."""
    kinds = dataset.features or {}  # those of a stream may be unknown
    for column in IMAGE_COLUMNS:
        if isinstance(kinds.get(column), Image) and kinds[column].decode:
            dataset = dataset.cast_column(column, Image(decode=False))
    return dataset


def bad_images_of(triplet: dict[str, Any], row: int) -> list[dict[str, Any]]:
    """Return the images of one triplet that cannot be used, as [`find_bad_images`] does."""
    errors = _image_errors(triplet, row)
    return [
        {"row": row, "id": triplet["id"], "column": column, "error": errors[column]}
        for column in IMAGE_COLUMNS
        if errors[column]
    ]


def _image_errors(triplet: dict[str, Any], row: int) -> dict[str, Any]:
    errors: dict[str, Any] = {"row": row, "id": triplet["id"]}
    for column in IMAGE_COLUMNS:
        try:
            triplet_image(triplet, column)
            errors[column] = ""
        except ImageError as error:
            errors[column] = str(error)
    return errors


def triplet_image(triplet: dict[str, Any], column: str) -> PILImage.Image:
    """Read the image in a column of a triplet. An [`~contextcir.data.images.ImageError`] names the triplet, the column
    and the path."""
    path = triplet[column].get("path") if isinstance(triplet[column], dict) else None
    name = f"mined negative {triplet['id']!r}" if column == "image" else f"triplet {triplet['id']!r}, {column}"
    return load_image(triplet[column], name=name + (f" ({path})" if path else ""))


class TripletImages(Sequence):
    """
    The distinct images of triplets, read when they are asked for.

    Args:
        triplets (`datasets.Dataset`): As from [`~contextcir.data.triplets.load_triplets`].

    Attributes:
        ids (`list[str]`): The ids of the images: of the references, then of the targets that are no references.
    """

    def __init__(self, triplets: datasets.Dataset):
        triplets = undecoded_images(triplets)
        self._columns = {column: triplets.select_columns([column]) for column in IMAGE_COLUMNS}
        shown: dict[str, tuple[int, str]] = {}  # id -> row and column that show it first
        for column in IMAGE_COLUMNS:
            for row, image_id in enumerate(triplets[column.replace("image", "id")]):
                shown.setdefault(image_id, (row, column))
        self.ids, self._places = list(shown), list(shown.values())

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: Any) -> Any:
        row, column = self._places[place]
        return self._columns[column][row][column]
