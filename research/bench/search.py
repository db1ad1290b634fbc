"""Exact search in a gallery of CIRCO's size, compared with the least work that it needs, and its peak memory."""

from functools import partial
from multiprocessing.connection import Connection

import torch

from contextcir.retrieval.index import search
from research.bench.measuring import Report, compare, in_child, peak_memory


def blocked_topk(
    queries: torch.Tensor, gallery: torch.Tensor, k: int, block_size: int = 16_384
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do the least work of exact search: one matmul and one top-k for each block, and one top-k over their results."""
    found = [(queries @ block.T).topk(k, dim=1) for block in gallery.split(block_size)]
    scores, places = torch.cat([values for values, _ in found], 1).topk(k, dim=1)
    indices = torch.cat([indices + i * block_size for i, (_, indices) in enumerate(found)], 1)
    return scores, indices.gather(1, places)


def measure_search(gallery_size: int, repeats: int, device: str, threads: int, connection: Connection) -> None:
    """Send the seconds of both variants, MB of memory above the gallery, and whether their scores are equal."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    gallery = torch.empty(gallery_size, 512)
    for block in gallery.split(4096):
        block.normal_()
        block.div_(block.norm(dim=1, keepdim=True))
    gallery = gallery.to(device)
    queries = torch.nn.functional.normalize(torch.randn(800, 512), dim=1).to(device)

    before = peak_memory(device)
    scores, _ = search(queries, gallery, 50)
    megabytes = peak_memory(device) - before
    same = torch.allclose(scores, blocked_topk(queries, gallery, 50)[0])
    variants = (partial(search, queries, gallery, 50), partial(blocked_topk, queries, gallery, 50))
    connection.send((compare(*variants, repeats, device), megabytes, same))


def bench_search(gallery_size: int, repeats: int, device: str, threads: int, report: Report) -> None:
    """Report speed and memory of exact search."""
    seconds, megabytes, same = in_child(measure_search, gallery_size, repeats, device, threads)
    name = f"search, top 50 of 800 queries in {gallery_size:,} / matmul + topk"
    report.add(name, seconds[0] / seconds[1], "<= 1.5", seconds, equal=same)
    report.add("search, peak of memory above the gallery in MB", megabytes, "<= 400")
