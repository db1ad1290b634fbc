"""Measure without the images that cannot be had any more, under a protocol id of its own."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from contextcir.benchmarks.base import Benchmark
from contextcir.retrieval.base import Gallery, Query

MISSING = ("error", "skip")  # what to do about missing images
LEFT_OUT = "without-"  # begins the last part of the protocol id, if images are left out


def leave_out_missing(parts: Sequence[Benchmark]) -> list[Benchmark]:
    """
    Leave out the missing images, and all queries that have one as their reference, target or candidate.

    Args:
        parts (`Sequence[Benchmark]`): All parts of a benchmark, with what is [`missing`](Benchmark) of each.

    Returns:
        `list[Benchmark]`: The parts. If images are missing, their protocol id ends in the numbers of images and
        queries that were left out and a digest of the images: it is never that of the whole benchmark, and the same
        only if the same images are missing. A remark says so.

    Raises:
        `ValueError`: A part has no queries left.
    """
    if not any(part.missing for part in parts):
        return list(parts)
    gone = sorted({(part.part, id_) for part in parts for id_ in part.missing})
    digest = hashlib.sha256(json.dumps(gone).encode()).hexdigest()[:8]
    kept = [[query for query in part.queries if not _needs_missing(part, query)] for part in parts]
    for part, queries in zip(parts, kept, strict=True):
        if not queries:
            raise ValueError(
                f"{' '.join([part.name, part.part]).strip()}: every query needs an image that is missing. Get them."
            )
    galleries = {id(part.gallery): _without(part.gallery, part.missing) for part in parts}
    images = sum({id(part.gallery): len(part.missing) for part in parts}.values())
    dropped = sum(len(part.queries) for part in parts) - sum(map(len, kept))
    note = (
        f"{parts[0].protocol_id}: {images:,} images are missing. They and the {dropped:,} queries that need one were"
        " left out, so the protocol id is another one. The results are not those of the benchmark."
    )
    return [
        replace(
            part.restricted_to(some),
            gallery=galleries[id(part.gallery)],
            protocol_id=f"{part.protocol_id}/{LEFT_OUT}{images}-images-{dropped}-queries-{digest}",
            missing={},
            remarks=(*part.remarks, note),
        )
        for part, some in zip(parts, kept, strict=True)
    ]


def refuse_incomplete(benchmark: Benchmark) -> None:
    """Raise a `ValueError` if queries or images were left out of a benchmark, whose server wants all of them."""
    if benchmark.protocol_id.rpartition("/")[2].startswith(LEFT_OUT):
        raise ValueError(f"{benchmark.protocol_id}: a submission needs all queries and images. Get those that miss.")


def _needs_missing(part: Benchmark, query: Query) -> bool:
    needed = {query.reference_id, *query.candidate_ids, *part.relevance.get(query.id, ())}
    return not needed.isdisjoint(part.missing)


class _Some(Sequence):
    """Some items of a sequence, read on access."""

    def __init__(self, items: Sequence, places: Sequence[int]):
        self.items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place):
        return self.items[self.places[place]]


def _without(gallery: Gallery, missing) -> Gallery:
    places = [place for place, id_ in enumerate(gallery.ids) if id_ not in missing]
    images = gallery.images
    some = [images[place] for place in places] if isinstance(images, list) else _Some(images, places)
    return Gallery([gallery.ids[place] for place in places], some)
