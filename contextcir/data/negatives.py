"""Mined negatives of triplets: a column of ids, and the images that they name, each stored once.

A mined data set has two configurations. `triplets`, the default, has a column `negative_ids`: for each row, ids of
images that a model takes for its target, the most alike first. `negatives` (`id`, `image`) holds every image that is
named. An image that the triplets show themselves has the same id there, so that a batch encodes it once and no target
becomes its own negative.
"""

from collections.abc import Sequence
from typing import Any

import datasets
from datasets import Features, Image, List, Value
from datasets.exceptions import DatasetNotFoundError

from contextcir.data.dataset_cache import cache_of
from contextcir.data.triplets import stored_features

NEGATIVE_IDS = "negative_ids"
NEGATIVES = "negatives"  # the configuration, and its folder
NEGATIVE_FEATURES = Features({"id": Value("string"), "image": Image()})
CONFIGS: list[dict[str, Any]] = [
    {"config_name": "triplets", "data_dir": "triplets", "default": True},
    {"config_name": NEGATIVES, "data_dir": NEGATIVES},
]


def mined_features(features: Features) -> Features:
    """Return the columns of mined triplets, as they are written, for those of the triplets."""
    return Features({**stored_features(features), NEGATIVE_IDS: List(Value("string"))})


def load_negatives(names: Sequence[str], *, revision: str | None = None) -> datasets.Dataset:
    """
    Load the images that the triplets of mined data sets name.

    Args:
        names (`Sequence[str]`): Folders or Hub names, as for [`~contextcir.data.triplets.load_triplets`].
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Returns:
        `datasets.Dataset`: `id` and undecoded `image`, each id once.

    Raises:
        `ValueError`: A data set has no configuration `negatives`.
    """
    parts = []
    for name in names:
        try:
            part = datasets.load_dataset(name, NEGATIVES, split="train", revision=revision, cache_dir=cache_of(name))
        except (ValueError, DatasetNotFoundError) as error:
            raise ValueError(
                f"{name} has no configuration {NEGATIVES!r} with the images of mined negatives ({error}). Give the"
                " folder that `contextcir mine --output` has written."
            ) from error
        parts.append(part.select_columns(["id", "image"]).cast_column("image", Image(decode=False)))
    joined = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
    places = {id_: place for place, id_ in reversed(list(enumerate(joined["id"])))}
    return joined if len(places) == len(joined) else joined.select(sorted(places.values()))


class NegativeImages:
    """The images of [`load_negatives`] by their ids, read when they are asked for."""

    def __init__(self, rows: datasets.Dataset):
        self.rows = rows.cast_column("image", Image(decode=False))
        self.places = {id_: place for place, id_ in enumerate(rows["id"])}

    def __getitem__(self, id_: str) -> Any:
        if id_ not in self.places:
            raise ValueError(
                f"There is no image {id_!r} among the {len(self.places)} mined negatives. Give the negatives that"
                " were mined with the triplets."
            )
        return self.rows[self.places[id_]]["image"]


def has_negatives(features: Features | None) -> bool:
    """Return whether there is a column of mined negatives. A `ValueError` says that it has another type."""
    kind = (features or {}).get(NEGATIVE_IDS)
    if kind is None:
        return False
    if not hasattr(kind, "feature") or getattr(kind.feature, "dtype", None) not in ("string", "large_string", "null"):
        raise ValueError(f"Column {NEGATIVE_IDS} has type {kind}, expected a list of texts. Mine again.")
    return True
