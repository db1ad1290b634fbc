"""From embeddings and annotation files to scores: ranking at the sizes of real benchmarks, and loading them."""

import os
import random
import statistics
import time

import torch

from contextcir.benchmarks import cirr, fashioniq, genecis, imagenet_r, visdial
from contextcir.benchmarks.base import Benchmark
from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.ranking import rank
from research.bench.measuring import Report, in_a_process, peak_of_memory


def random_benchmark(num_queries: int, gallery_size: int, candidates: int = 0) -> Benchmark:
    """A benchmark of these sizes, with one target for each query, the reference excluded."""
    generator = random.Random(num_queries)
    ids = [f"image-{number:06d}" for number in range(gallery_size)]
    queries, relevance = [], {}
    for number in range(num_queries):
        reference, target, *others = generator.sample(ids, max(2, candidates))
        members = (reference, target, *others) if candidates else ()
        queries.append(Query(f"{number}", "a text", reference_id=reference, candidate_ids=members))
        relevance[f"{number}"] = {target}
    metrics = {"recall": (1, 2, 5, 10, 50), **({"recall_subset": (1, 2, 3)} if candidates else {})}
    gallery = Gallery(ids, [None] * gallery_size)
    return Benchmark("random", "random", gallery, queries, relevance, exclude_reference=True, metrics=metrics)


def measure_ranking(sizes, repeats: int, results) -> None:
    """CPU seconds, on one thread, from embeddings of size 64 to scores of several parts, and MB."""
    torch.set_num_threads(1)
    parts = [random_benchmark(*size) for size in sizes]
    embeds = [[torch.nn.functional.normalize(torch.randn(count, 64), dim=1) for count in size[:2]] for size in sizes]

    def rank_and_score():
        for part, pair in zip(parts, embeds, strict=True):
            part.scores(rank(part.queries, part.gallery, *pair, part.k, exclude_reference=True))

    before, seconds = peak_of_memory("cpu"), []
    for _ in range(repeats + 1):
        begin = time.process_time()
        rank_and_score()
        seconds.append(time.process_time() - begin)
    results.put((statistics.median(seconds[1:]), peak_of_memory("cpu") - before))


def bench_ranking(quick: bool, repeats: int, report: Report) -> None:
    """The sizes of real benchmarks; what is measured is a number of seconds, not a ratio."""
    scale = 100 if quick else 1
    for name, sizes, goal in (
        ("CIRR test1, top 50 and subset", [(4148, 2315, 6)], "<= 0.3"),
        ("CIRCO test, top 50", [(800, 123_403)], "<= 3"),
        ("FashionIQ val, three categories", [(2017, 3817), (2038, 6346), (1961, 5373)], "<= 1"),
    ):
        sizes = [(queries // scale, images // scale, *more) for queries, images, *more in sizes]
        seconds, megabytes = in_a_process(measure_ranking, sizes, repeats)
        report.add(f"rank and score {name}: seconds", seconds, goal)
        if "subset" in name:
            report.add(f"rank and score {name}: MB", megabytes, "<= 100")


def bench_loading(report: Report) -> None:
    """Annotation files of all benchmarks under CIR_DATA_ROOT: seconds to load and validate."""
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
