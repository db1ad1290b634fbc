"""A folder of tiny photographs, a retriever that embeds them, and a worker process that does it slowly."""

import hashlib
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.store.build import Worker
from contextcir.retrieval.store.operations import index_images
from contextcir.retrieval.store.sources import FolderSource
from tests.retrieval.models import Model, Processor

COUNT = 40


def write_photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_photos(folder: Path, count: int = COUNT) -> Path:
    """`count` photographs in two sub-folders, all different."""
    for number in range(count):
        write_photo(folder / f"{'ab'[number % 2]}/{number:03d}.png", number)
    return folder


class Named(Model):
    """A model with a name, as those of transformers have."""

    config = SimpleNamespace(_name_or_path="tiny", _commit_hash="abc123")


class CountingModel(Named):
    """Counts the images that it embeds."""

    def __init__(self, seed: int = 0):
        super().__init__(seed)
        self.embedded = 0

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        self.embedded += len(pixel_values)
        return super().get_image_features(pixel_values)


def retriever_of(model: torch.nn.Module | None = None, **options) -> DenseRetriever:
    return DenseRetriever.from_model(model or Named(), Processor(), **{"batch_size": 4} | options)


def contents(folder: Path) -> dict[str, str]:
    """Path in a gallery -> digest, of all its files that are not hidden."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def work(photos: str, output: str, rank: str, world_size: str) -> None:
    """Index slowly, as a process of its own that a test can kill."""

    class Slow(Named):
        def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
            time.sleep(0.03)
            return super().get_image_features(pixel_values)

    torch.set_num_threads(1)
    worker = Worker(int(rank), int(world_size))
    index_images(FolderSource(photos), retriever_of(Slow()), output, shard_size=8, worker=worker, quiet=True)


if __name__ == "__main__":
    work(*sys.argv[1:])
