"""Helpers for miniature benchmarks in their official layouts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contextcir.retrieval.base import Ranking


def write(path: Path, content: Any) -> None:
    """Write JSON, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def change(path: Path, function: Callable) -> None:
    """Replace the JSON content of a file by a function of it."""
    write(path, function(json.loads(path.read_text())))


def refuses(message: str, function: Callable, *args: Any, **options: Any) -> None:
    """Check that a call raises a `ValueError` with a message that matches."""
    with pytest.raises(ValueError, match=message):
        function(*args, **options)


def in_gallery_order(benchmark, exclude: bool | None = None) -> Ranking:
    """At most 50 ids in the order of the gallery, by default with the reference as the protocol wants it."""
    exclude = benchmark.exclude_reference if exclude is None else exclude
    return Ranking(
        [query.id for query in benchmark.queries],
        [
            [id_ for id_ in benchmark.gallery.ids if not (exclude and id_ == query.reference_id)][:50]
            for query in benchmark.queries
        ],
        candidate_ids=[query.ranked_candidate_ids for query in benchmark.queries],
    )


def golden_embeds(root: Path, prefix: str = "") -> tuple[torch.Tensor, torch.Tensor]:
    """The normalised embeddings in `<prefix>query_features.npy` and `<prefix>index_features.npy`."""
    queries, gallery = (
        torch.from_numpy(np.load(root / f"{prefix}{side}_features.npy")) for side in ("query", "index")
    )
    return torch.nn.functional.normalize(queries.float()), torch.nn.functional.normalize(gallery.float())
