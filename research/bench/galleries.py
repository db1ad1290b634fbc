"""Speed and memory of stored galleries: loading images, embedding, building, and searching from disk.

    python -m research.bench.galleries --output docs/results/bench_galleries.json    # about 12 minutes
    python -m research.bench.galleries --quick                                       # small sizes: a test run

Variants of a ratio alternate, and medians are compared. `forward replaced by a sleep` shows what the loading of images
allows: a model on a GPU leaves the CPU alone, as the sleep does. The main thread's own cost is the CPU time of the
thread that runs the model.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from contextcir.retrieval.base import Gallery
from contextcir.retrieval.dense import DenseRetriever, PixelValues, normalize
from contextcir.retrieval.identity import Identity
from contextcir.retrieval.index import search
from contextcir.retrieval.loading import ImageLoader, image_batches
from contextcir.retrieval.store.build import Worker
from contextcir.retrieval.store.gallery import StoredRows
from contextcir.retrieval.store.operations import index_images
from contextcir.retrieval.store.sources import MemorySource
from research.bench.measuring import Report, compare, environment, in_child, peak_memory, write_json

SIZES = ((640, 480), (1600, 1200))
SLEEP = 0.002  # seconds for each image: a GPU that embeds 500 images a second


class Processor:
    """CLIP's image processor, in the place of a whole processor."""

    def __init__(self) -> None:
        self.image_processor = CLIPImageProcessorPil()

    def __call__(self, images: Any, return_tensors: str) -> Any:
        return self.image_processor(images, return_tensors=return_tensors)


def photographs(folder: Path, count: int, size: tuple[int, int]) -> Gallery:
    """Write smooth pictures with some noise, as JPEG files of a photograph's size."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + rng.integers(-12, 13, smooth.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:05d}.jpg", quality=90)
    return Gallery.from_folder(folder)


def measure_loading(folder: str, count: int, size: tuple[int, int], workers: int) -> tuple[float, float]:
    """Return images a second with a sleep in place of the model, and CPU milliseconds of the main thread an image."""
    gallery = photographs(Path(folder), count, size)
    loader = ImageLoader(gallery.ids, gallery.images, PixelValues(Processor()))
    list(image_batches(loader, range(min(32, count)), batch_size=16, num_workers=workers))  # to warm up
    begin, own, done = time.perf_counter(), time.thread_time(), 0
    for batch in image_batches(loader, range(count), batch_size=16, num_workers=workers):
        done += len(batch.places)
        time.sleep(SLEEP * len(batch.places))
    return done / (time.perf_counter() - begin), 1000 * (time.thread_time() - own) / done


def bench_loading(count: int, sizes: Sequence[tuple[int, int]], report: Report) -> None:
    """Report how fast images are loaded."""
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            name = f"{size[0]} x {size[1]}"
            for workers in (0, 1, 2):
                rate, own = measure_loading(f"{folder}/{name}", count, size, workers)
                who = f"{workers} worker processes" if workers else "2 threads"
                report.add(f"images/s, {name}, {who}, forward replaced by a sleep", rate, "")
                goal = "<= 1.5" if workers else ""
                report.add(f"main thread, CPU ms an image, {name}, {who}", own, goal)


def measure_embedding(folder: str, count: int, repeats: int, quick: bool) -> tuple[float, float]:
    """Return the wall seconds of building a gallery and of the forward passes alone."""
    gallery = photographs(Path(folder, "photos"), count, SIZES[0])
    config = CLIPConfig(vision_config={"num_hidden_layers": 2, "hidden_size": 96} if quick else {})
    model = CLIPModel(config).eval()
    prepare = PixelValues(Processor())

    def embed(pixels: torch.Tensor) -> torch.Tensor:
        return normalize(model.get_image_features(pixels).pooler_output)

    batches = [
        batch.pixels
        for batch in image_batches(ImageLoader(gallery.ids, gallery.images, prepare), range(count), batch_size=16)
    ]
    builds = 0

    def build() -> None:
        nonlocal builds
        builds += 1
        who = Identity("bench", str(builds))
        retriever = DenseRetriever(embed, embed, prepare=prepare, identity=who, batch_size=16, num_workers=1)
        output = Path(folder, f"gallery{builds}")
        index_images(MemorySource(gallery), retriever, output, worker=Worker(), quiet=True)

    def forward() -> None:
        with torch.inference_mode():
            for pixels in batches:
                embed(pixels)

    return compare(build, forward, repeats, "wall")


def measure_memory(rows: int, connection: Connection) -> None:
    """Send MB of memory that building one shard takes beside what the process takes anyway, and MB of the shard."""
    torch.set_num_threads(1)
    images = [np.full((8, 8, 3), 7, np.uint8)] * rows
    gallery = Gallery([f"{number}" for number in range(rows)], images)
    prepare = torch.zeros(1)

    def embed(pixels: torch.Tensor) -> torch.Tensor:
        return torch.full((len(pixels), 512), 512**-0.5)

    def retriever(name: str) -> DenseRetriever:
        return DenseRetriever(embed, embed, prepare=lambda image: prepare, identity=Identity(name), batch_size=256)

    with tempfile.TemporaryDirectory() as folder:
        few = Gallery(gallery.ids, images)
        small = {"shard_size": 1024, "worker": Worker(), "quiet": True}
        index_images(MemorySource(few), retriever("a"), f"{folder}/a", **small)  # type: ignore[arg-type]
        before = peak_memory("cpu")
        large = small | {"shard_size": rows}
        index_images(MemorySource(gallery), retriever("b"), f"{folder}/b", **large)  # type: ignore[arg-type]
        connection.send((peak_memory("cpu") - before, rows * 512 * 4 / 1e6))


def measure_query(rows: int, repeats: int, connection: Connection) -> None:
    """Send the seconds of one query over rows that are mapped from shards, and of one product and one top-k."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        parts = []
        for number, start in enumerate(range(0, rows, 65_536)):
            size = min(65_536, rows - start)
            path = Path(folder, f"{number}.bin")
            normalize(torch.randn(size, 512)).numpy().tofile(path)
            parts.append(torch.from_file(str(path), shared=False, size=size * 512).view(size, 512))
        stored, whole = StoredRows(parts), torch.cat(parts)
        query = normalize(torch.randn(1, 512))
        least: Callable[[], Any] = lambda: (query @ whole.T).topk(10)  # noqa: E731
        assert search(query, stored, 10)[1].tolist() == least()[1].tolist()
        connection.send(compare(partial(search, query, stored, 10), least, repeats, "cpu"))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure everything. Returns the result, as written to JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and one repeat")
    parser.add_argument("--output", default="bench_galleries.json", help="JSON file of the result")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    report, quick = Report(), args.quick
    bench_loading(8 if quick else 400, SIZES[: 1 if quick else 2], report)
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure_embedding(folder, 16 if quick else 384, 1 if quick else 3, quick)
        name = "building a gallery of 640 x 480 JPEG, ViT-B/32, 1 worker process / the forward passes alone"
        report.add(name, seconds[0] / seconds[1], "<= 1.03", seconds)
    memory, shard = in_child(measure_memory, 4_096 if quick else 131_072)
    report.add("building, memory above a small build / size of a shard", memory / shard, "<= 1.1")
    seconds = in_child(measure_query, 20_000 if quick else 1_000_000, 1 if quick else 7)
    name = f"one query in {20_000 if quick else 1_000_000:,} x 512 on disk / matmul + topk in memory"
    report.add(name, seconds[0] / seconds[1], "<= 1.15", seconds)
    result = {
        "quick": quick,
        **environment("cpu"),
        "rows": report.rows,
    }
    write_json(result, args.output)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
