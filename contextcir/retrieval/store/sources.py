"""Where the images of a gallery are: a folder, a list of files, or a data set of the `datasets` library.

A source can be described in JSON and opened again, so that a stored gallery finds its images: for thumbnails, for
reference images, and to see what has changed. It may know facts of an image (a price, a colour), to filter by.
"""

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from contextcir.data.folders import FileNames, FolderImages, files_in, list_images
from contextcir.data.image_files import existing_path
from contextcir.data.images import ImageError
from contextcir.retrieval.base import Gallery, refuse_repeated
from contextcir.retrieval.store.layout import StoreError

METADATA_FILES = ("metadata.csv", "metadata.jsonl")  # as `datasets` reads an image folder, with a column file_name
DATA_FILES = (".parquet", ".arrow", ".tar")  # a folder that has such files is a data set; tar is WebDataset
UNPUBLISHED = "unpublished"  # kind of a source that a published gallery does not tell
SCALARS = (str, int, float, bool)
Facts = Mapping[str, Any]  # column -> `str`, `int`, `float`, `bool` or `None`


class HasImages(Protocol):
    """Images by id."""

    def image(self, id_: str) -> Any:
        """The image in any form that `load_image` reads. Raises an `ImageError` if it is not there."""
        ...


class Source(HasImages, Protocol):
    """
    Where images are.

    Attributes:
        ids (`list[str]`): Unique ids, in the order of the gallery.
        left_out (`dict[str, int]`): Kind of file that was found and cannot be read -> how many.
    """

    @property
    def ids(self) -> list[str]: ...

    @property
    def left_out(self) -> dict[str, int]: ...

    def facts(self, id_: str) -> Facts:
        """Column -> value (`str`, `int`, `float`, `bool` or `None`) of an image."""
        ...

    def describe(self) -> dict[str, Any]:
        """What [`open_source`] needs to open the source again, as JSON."""
        ...


class FolderSource:
    """
    The images of a folder and its sub-folders, see [`~contextcir.data.folders.list_images`]. Ids are paths in it.

    `metadata.csv` or `metadata.jsonl` at its top, with a column `file_name`, gives facts of the images, as in an image
    folder of the `datasets` library.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).absolute()

    @cached_property
    def _listed(self) -> FolderImages:
        return list_images(self.folder)

    @property
    def ids(self) -> list[str]:
        return self._listed.names

    @property
    def left_out(self) -> dict[str, int]:
        return self._listed.left_out

    @cached_property
    def _rows(self) -> dict[str, Facts]:
        names = FileNames(self.ids)
        rows: dict[str, Facts] = {}
        for row in _metadata_rows(self.folder):
            given = row.pop("file_name")
            try:
                name = names.find(given) or given
            except ValueError as error:
                raise StoreError(f"The metadata in {self.folder}: {error}") from error
            if name in rows:
                raise StoreError(f"The metadata in {self.folder} have several rows for {name!r}. Keep one of them.")
            rows[name] = row
        return rows

    def facts(self, id_: str) -> Facts:
        return self._rows.get(id_, {})

    def image(self, id_: str) -> Path:
        parts = PurePosixPath(id_).parts
        path = Path(existing_path(self.folder / id_))
        if ".." in parts or PurePosixPath(id_).is_absolute() or not path.is_file():
            raise ImageError(f"gallery image {id_!r}: no such file in {self.folder}. Was it moved or removed?")
        return path

    def describe(self) -> dict[str, Any]:
        return {"kind": "folder", "path": str(self.folder)}


class FilesSource:
    """The images that a text file lists, one path a line, relative to its own folder. The lines are the ids."""

    def __init__(self, listing: str | os.PathLike):
        self.listing = Path(listing).absolute()
        try:
            lines = self.listing.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{listing} cannot be read ({error}). Expected a text file, one path a line.") from error
        self.ids = [line for line in lines if line.strip()]
        self.left_out: dict[str, int] = {}
        self._known = set(self.ids)
        refuse_repeated(self.ids, f"The lines of {listing}")

    def image(self, id_: str) -> Path:
        path = Path(existing_path(self.listing.parent / id_))
        if id_ not in self._known or not path.is_file():
            raise ImageError(f"gallery image {id_!r}: no such file in {self.listing.parent}. Was it moved or removed?")
        return path

    def facts(self, id_: str) -> Facts:
        return {}

    def describe(self) -> dict[str, Any]:
        return {"kind": "files", "path": str(self.listing)}


class MemorySource:
    """A gallery that is given as an object. It cannot be opened again: whoever has it keeps it."""

    def __init__(self, gallery: Gallery):
        self.gallery, self.ids = gallery, gallery.ids
        self.left_out: dict[str, int] = {}

    def image(self, id_: str) -> Any:
        return self.gallery.images[self.gallery.positions[id_]]

    def facts(self, id_: str) -> Facts:
        return {}

    def describe(self) -> dict[str, Any]:
        return {"kind": "memory"}


class Sources:
    """Several sources as one. An id belongs to the first that has it."""

    def __init__(self, parts: Sequence[Source]):
        self.parts = list(parts)

    def image(self, id_: str) -> Any:
        for part in self.parts[:-1]:
            try:
                return part.image(id_)
            except ImageError:
                continue
        return self.parts[-1].image(id_)

    def describe(self) -> list[dict[str, Any]]:
        return [part.describe() for part in self.parts]


def find_source(name: str | os.PathLike, **dataset_options: Any) -> Source:
    """
    Find out what a name is: a folder of images, a text file that lists images, or a data set.

    Args:
        name (`str` or `os.PathLike`): The name. A folder with visible Parquet, Arrow or WebDataset
            (tar) files is a data set.
        **dataset_options: As for [`~contextcir.retrieval.store.dataset_sources.open_dataset`]; they make the name a
            data set.

    Raises:
        [`StoreError`]: It holds no images.
    """
    path, options = Path(name), {key: value for key, value in dataset_options.items() if value is not None}
    if path.is_file() and not options and path.suffix.lower() in (".txt", ".lst"):
        return FilesSource(path)
    if path.is_dir() and not options and not files_in(path, DATA_FILES):
        return FolderSource(path)
    from contextcir.retrieval.store.dataset_sources import open_dataset
    from contextcir.runtime.locations import locate

    return open_dataset(locate(str(name)), **options)


def open_source(description: Mapping[str, Any]) -> Source:
    """Open a source again, from what [`Source.describe`] returned."""
    from contextcir.retrieval.store.dataset_sources import open_dataset

    kind, facts = description["kind"], {key: value for key, value in description.items() if key != "kind"}
    if kind == "memory":
        raise StoreError("The gallery was built from an object in memory, which is gone: its images are not at hand.")
    if kind == UNPUBLISHED:
        raise StoreError("The images of this gallery were not published with it.")
    if kind == "folder":
        return FolderSource(facts["path"])
    if kind == "files":
        return FilesSource(facts["path"])
    return open_dataset(facts.pop("name"), **facts)


def _metadata_rows(folder: Path) -> list[dict[str, Any]]:
    for name in METADATA_FILES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                is_csv = name.endswith(".csv")
                rows = list(csv.DictReader(file)) if is_csv else [json.loads(line) for line in file if line.strip()]
            read = _number if name.endswith(".csv") else _scalar
            rows = [{key: read(value) for key, value in row.items()} for row in rows]
        except (ValueError, AttributeError, csv.Error) as error:
            raise StoreError(f"{path} cannot be read ({error}).") from error
        if any("file_name" not in row for row in rows):
            raise StoreError(f"{path}: expected a column file_name, the path of the image in the folder.")
        return rows
    return []


def _number(text: str | None) -> Any:
    """The number or truth value that a text of CSV is, or the text."""
    if text and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            if text and math.isfinite(number := kind(text)):
                return number
        except ValueError:
            continue
    return text or None


def _scalar(value: Any) -> Any:
    """A value to filter by: as it is, or as JSON if it is a list or an object."""
    return value if value is None or isinstance(value, SCALARS) else json.dumps(value, sort_keys=True)
