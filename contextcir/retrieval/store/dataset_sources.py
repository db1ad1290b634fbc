"""The images of data sets of the `datasets` library: on disk, on the Hub, or streamed from there."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

from datasets import Dataset, Features, Image, IterableDataset, load_dataset

from contextcir.data.dataset_cache import cache_of
from contextcir.data.images import ImageError
from contextcir.retrieval.base import refuse_repeated
from contextcir.retrieval.store.layout import StoreError

ID_COLUMNS = ("id", "__key__")  # the second is WebDataset's
AHEAD = 4096  # rows of a stream that are kept, because threads ask for them in about their order


def open_dataset(
    name: str,
    split: str = "train",
    *,
    config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    id_column: str | None = None,
    streaming: bool = False,
) -> "DatasetSource | StreamSource":
    """
    Open a data set as a source. Columns of text, numbers and truth values are facts of the images.

    Args:
        name (`str`): Name or path, as `datasets.load_dataset` takes it.
        split (`str`, *optional*, defaults to `train`): The split.
        config (`str`, *optional*): The configuration.
        revision (`str`, *optional*): The commit on the Hub.
        image_column (`str`, *optional*): The column of the images; by default `image`, or the only one that has some.
        id_column (`str`, *optional*): The column of the ids; by default `id` or `__key__`, or else row numbers.
        streaming (`bool`, *optional*, defaults to `False`): Read rows as they come, without a copy on this disk.

    Raises:
        [`StoreError`]: There is no column of images.
    """
    description = {
        "kind": "dataset",
        "name": str(Path(name).absolute()) if Path(name).exists() else name,
        "split": split,
        "config": config,
        "revision": revision,
        "image_column": image_column,
        "id_column": id_column,
        "streaming": streaming,
    }
    rows = load_dataset(name, config, split=split, revision=revision, streaming=streaming, cache_dir=cache_of(name))
    if rows.features is None:  # a stream that says nothing of itself
        rows = rows._resolve_features()
    image_column = _image_column(rows.features, image_column, name)
    if isinstance(rows.features[image_column], Image):  # decoded by `load_image`, which names a bad one
        rows = rows.cast_column(image_column, Image(decode=False))
    id_column = id_column or next((column for column in ID_COLUMNS if column in rows.features), None)
    return (StreamSource if streaming else DatasetSource)(rows, image_column, id_column, description)


class DatasetSource:
    """The images of a data set on disk. See [`open_dataset`]."""

    def __init__(self, rows: Dataset, image_column: str, id_column: str | None, description: dict[str, Any]):
        self._images, self._description = rows[image_column], description
        self.ids = list(map(str, rows[id_column])) if id_column else [row_id(row) for row in range(len(rows))]
        refuse_repeated(self.ids, f"The rows of {description['name']}")
        self.left_out: dict[str, int] = {}
        self._facts = {column: rows[column] for column in _fact_columns(rows.features, image_column, id_column)}
        self._places = {id_: place for place, id_ in enumerate(self.ids)}

    def image(self, id_: str) -> Any:
        return self._images[_place(self._places, id_, self._description)]

    def facts(self, id_: str) -> Mapping[str, Any]:
        return {column: values[self._places[id_]] for column, values in self._facts.items()}

    def describe(self) -> dict[str, Any]:
        return self._description


class StreamSource:
    """
    The images of a data set that is streamed. See [`open_dataset`].

    Ids are read in a first pass without the images. Images are read in the order of the stream; what lies behind is
    read again.
    """

    sequential = True  # worker processes would each read the whole stream

    def __init__(self, rows: IterableDataset, image_column: str, id_column: str | None, description: dict[str, Any]):
        self._rows, self._image_column, self._description = rows, image_column, description
        self._columns = _fact_columns(rows.features, image_column, id_column)
        bare = rows.select_columns([id_column]) if id_column else rows.select_columns([image_column])
        self.ids = [str(row[id_column]) if id_column else row_id(place) for place, row in enumerate(bare)]
        refuse_repeated(self.ids, f"The rows of {description['name']}")
        self.left_out: dict[str, int] = {}
        self._places = {id_: place for place, id_ in enumerate(self.ids)}
        self._lock = Lock()
        self._next = 0  # place of the next row of the stream
        self._stream: Iterator[dict[str, Any]] = iter(self._rows)
        self._kept: dict[int, dict[str, Any]] = {}

    def _row(self, id_: str) -> dict[str, Any]:
        place = _place(self._places, id_, self._description)
        with self._lock:
            if place not in self._kept:
                if not self._next <= place < self._next + AHEAD:
                    self._next, self._stream = place, iter(self._rows.skip(place))
                for row in islice(self._stream, place + 1 - self._next):
                    self._kept[self._next] = row
                    self._next += 1
                for old in list(self._kept)[: max(0, len(self._kept) - 2 * AHEAD)]:
                    del self._kept[old]
            return self._kept[place]

    def image(self, id_: str) -> Any:
        return self._row(id_)[self._image_column]

    def facts(self, id_: str) -> Mapping[str, Any]:
        row = self._row(id_)
        return {column: row[column] for column in self._columns}

    def describe(self) -> dict[str, Any]:
        return self._description


def row_id(place: int) -> str:
    """The id of a row of a data set without ids."""
    return f"{place:09d}"


def _place(places: Mapping[str, int], id_: str, description: Mapping[str, Any]) -> int:
    if id_ not in places:
        raise ImageError(f"gallery image {id_!r}: {description['name']} has no such row.")
    return places[id_]


def _image_column(features: Features, wanted: str | None, name: str) -> str:
    found = [column for column, kind in features.items() if isinstance(kind, Image)]
    if wanted is None and "image" not in features and len(found) == 1:
        return found[0]
    if (wanted or "image") not in features:
        raise StoreError(
            f"{name} has no column {wanted or 'image'!r}, but {', '.join(features)}. Give --image_column."
        )
    return wanted or "image"


def _fact_columns(features: Features, *others: str | None) -> list[str]:
    kinds = ("string", "int", "uint", "float", "bool")
    return [
        column
        for column, kind in features.items()
        if column not in (*others, *ID_COLUMNS, "__url__") and getattr(kind, "dtype", "").startswith(kinds)
    ]
