"""Ranking and scoring at the sizes of real benchmarks, and loading of their annotation files."""

import os
import random
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

import torch

from contextcir.benchmarks import cirr, fashioniq, genecis, imagenet_r, visdial
from contextcir.benchmarks.base import Benchmark
from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.ranking import rank
from research.bench.measuring import Report, in_child, peak_memory


def random_benchmark(num_queries: int, gallery_size: int, candidates: int = 0) -> Benchmark:
    """Return a benchmark with one target for each query, and without the reference in the ranking."""
    generator = random.Random(num_queries)
    ids = [f"image-{number:06d}" for number in range(gallery_size)]
    queries: list[Query] = []
    relevance: dict[str, set[str]] = {}
    for number in range(num_queries):
        reference, target, *others = generator.sample(ids, max(2, candidates))
        members = (reference, target, *others) if candidates else ()
        queries.append(Query(f"{number}", "a text", reference_id=reference, candidate_ids=members))
        relevance[f"{number}"] = {target}
    metrics: dict[str, tuple[int, ...]] = {"recall": (1, 2, 5, 10, 50)}
    if candidates:
        metrics["recall_subset"] = (1, 2, 3)
    gallery = Gallery(ids, [None] * gallery_size)
    return Benchmark("random", "random", gallery, queries, relevance, exclude_reference=True, metrics=metrics)


Sizes = Sequence[tuple[int, ...]]  # of each part: queries, images and, if there are any, candidates


def measure_all(benchmarks: Sequence[Sizes], repeats: int, connection: Connection) -> None:
    """Send the result of [`measure_ranking`] for each benchmark. Only the memory of the first is its own."""
    torch.set_num_threads(1)
    connection.send([measure_ranking(sizes, repeats) for sizes in benchmarks])


def measure_ranking(sizes: Sizes, repeats: int) -> tuple[float, float]:
    """Return CPU seconds from embeddings of size 64 to the scores of all parts, and MB of memory."""
    parts = [random_benchmark(*size) for size in sizes]
    embeds = [[torch.nn.functional.normalize(torch.randn(count, 64), dim=1) for count in size[:2]] for size in sizes]

    def rank_and_score() -> None:
        for part, (queries, images) in zip(parts, embeds, strict=True):
            part.scores(rank(part.queries, part.gallery, queries, images, part.k, exclude_reference=True))

    before, seconds = peak_memory("cpu"), []
    for _ in range(repeats + 1):
        begin = time.process_time()
        rank_and_score()
        seconds.append(time.process_time() - begin)
    return statistics.median(seconds[1:]), peak_memory("cpu") - before


def bench_ranking(quick: bool, repeats: int, report: Report) -> None:
    """Report ranking and scoring. The values are seconds and MB, not ratios."""
    scale = 100 if quick else 1
    benchmarks: dict[str, tuple[Sizes, str]] = {
        "CIRR test1, top 50 and subset": ([(4148, 2315, 6)], "<= 0.3"),
        "CIRCO test, top 50": ([(800, 123_403)], "<= 3"),
        "FashionIQ val, three categories": ([(2017, 3817), (2038, 6346), (1961, 5373)], "<= 1"),
    }
    scaled = [
        [(queries // scale, images // scale, *more) for queries, images, *more in sizes]
        for sizes, _ in benchmarks.values()
    ]
    measured = in_child(measure_all, scaled, repeats)
    for (name, (_, goal)), (seconds, megabytes) in zip(benchmarks.items(), measured, strict=True):
        report.add(f"rank and score {name}: seconds", seconds, goal)
        if "subset" in name:
            report.add(f"rank and score {name}: MB", megabytes, "<= 100")


def bench_loading(report: Report) -> None:
    """Report the seconds to load and check the annotation files of all benchmarks under CIR_DATA_ROOT."""
    root, begin = os.environ.get("CIR_DATA_ROOT"), time.process_time()
    if not root:
        print("annotation files: CIR_DATA_ROOT is not set")
        return
    for split in cirr.SPLITS:
        cirr.load(f"{root}/cirr", split, check_images=False)
    fashioniq.load(f"{root}/fashioniq", check_images=False)
    genecis.load(f"{root}/genecis", "change_object", check_images=False)
    imagenet_r.load(f"{root}/pic2word_imgnet/data", check_images=False)
    visdial.load(f"{root}/plugir", check_images=False)
    report.add("load all annotation files: seconds", time.process_time() - begin, "<= 5")
