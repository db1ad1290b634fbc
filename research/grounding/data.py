"""Scenes with the truth about their noun phrases: triplets to train on, and benchmarks to measure on.

The triplets are those of `contextcir data scenes`, drawn again from the same seed, with the phrases of their trees and
the part of each patch that a phrase's referent covers. The benchmarks are of the validation part. That of the project
has 192 queries, so further seeds make more. *longer* are compositions of four or five edits, which training does not
show; nothing is chosen by them.
"""

import json
import os
import pickle
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Features, List, Value
from tqdm import tqdm

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.scenes import GroundedPhrase, GroundTruth
from contextcir.data.triplets import TRIPLET_FEATURES
from contextcir.evaluation.grounding import coverage, kind_of
from contextcir.retrieval.base import Gallery, Query
from contextcir.scenes import SceneBenchmark, compose, denoted_mask, render, role
from contextcir.scenes.rows import encode, training_queries, triplet

IMAGE_SIZE, GRID = 96, (6, 6)  # of the pictures, and of the patches of the tiny CLIP
PARTS = {"iid": ("iid",), "longer": ("longer",)}
BENCHMARK_SEEDS = (0, 1, 2)
QUERIES = 192  # of each part and seed
FEATURES = Features(
    TRIPLET_FEATURES
    | {
        "kinds": List(Value("string")),  # of each noun phrase
        "coverage": List(List(Value("float32"))),  # of each patch; all zero where a phrase denotes nothing
        "family": Value("string"),
    }
)


def composed(part: str, seed: int) -> SceneBenchmark:
    """Compose a benchmark. That of `iid` and seed 0 has the queries of the project's validation split."""
    return compose("validation", QUERIES, None, seed, splits=PARTS[part])


def triplets(count: int, folder: Path) -> datasets.Dataset:
    """Return the first training triplets with their truth. They are drawn once and kept in a folder."""
    path = folder / f"triplets-{count}"
    if not path.is_dir():
        drawn = datasets.Dataset.from_generator(partial(_rows, count), features=FEATURES, cache_dir=str(folder))
        partial_path = path.with_suffix(".partial")
        drawn.save_to_disk(partial_path)
        partial_path.rename(path)
    rows = datasets.load_from_disk(path)
    for column in ("reference_image", "target_image"):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _rows(count: int) -> Any:
    excluded = {hash(scene) for scene in _held_back()}
    for number, (query, reference, target) in enumerate(tqdm(training_queries(count, 0, excluded), total=count)):
        shown = ((id_, encode(picture, IMAGE_SIZE)) for id_, picture in (reference, target))
        scene, nuisance = reference[1].scene, reference[1].nuisance
        covered = [
            coverage(denoted_mask(scene, nuisance, phrase.denotes), GRID).ravel() for phrase in query.noun_phrases
        ]
        yield triplet(f"train-{number:06d}", query, *shown) | {
            "kinds": [kind_of(phrase.denotes) or "new" for phrase in query.noun_phrases],
            "coverage": covered,
            "family": reference[0].rpartition("-")[0],
        }


def _held_back() -> Any:
    """Yield the scenes of all benchmarks: those of the project and those of this experiment."""
    yield from (picture.scene for _, picture in compose("test", 408, 2000, 0).pictures())
    for part in PARTS:
        for seed in BENCHMARK_SEEDS:
            yield from (picture.scene for _, picture in composed(part, seed).pictures())


@cache
def benchmark(part: str, seed: int, kept: Path) -> Benchmark:
    """Return a benchmark of the validation part with its ground truth. It is composed and drawn once, and kept in a
    folder."""
    path = kept / f"benchmark-{part}-{seed}-{QUERIES}.pickle"
    if not path.exists():
        kept.mkdir(parents=True, exist_ok=True)
        partial_path = path.with_suffix(f".{os.getpid()}")
        partial_path.write_bytes(pickle.dumps(_drawn(part, seed)))
        partial_path.replace(path)
    queries, truths, images, relevance = pickle.loads(path.read_bytes())
    return Benchmark(
        name="scenes",
        protocol_id=f"scenes-validation-{part}-seed{seed}/{len(queries)}-in-{len(images)}/reference-excluded",
        gallery=Gallery(list(images), list(images.values())),
        queries=queries,
        relevance=relevance,
        exclude_reference=True,
        metrics={"recall": (1, 5, 10), "recall_subset": (1,)},
        ground_truth=lambda: truths,
    )


def _drawn(part: str, seed: int) -> tuple[list[Query], dict[str, GroundTruth], dict[str, np.ndarray], Any]:
    """Compose and draw a benchmark: queries, truths and targets by query, and pictures by id."""
    found = composed(part, seed)
    pictures = dict(found.pictures())
    images = {
        id_: np.asarray(render(picture.scene, picture.nuisance, IMAGE_SIZE)) for id_, picture in pictures.items()
    }
    queries, truths = [], {}
    for question in found.questions:
        options = {"reference_id": question.reference_id, "candidate_ids": question.candidate_ids}
        queries.append(Query(question.id, question.query.text, tags=tuple(question.tags), **options))
        picture = pictures[question.reference_id]
        phrases = [
            GroundedPhrase(p.text, p.start, p.end, role(question.query, p.denotes), p.denotes)
            for p in question.query.noun_phrases
        ]
        truths[question.id] = GroundTruth(picture.scene, picture.nuisance, phrases)
    return queries, truths, images, {question.id: set(question.target_ids) for question in found.questions}


def write_json(path: Path, record: Any) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(".partial")
    partial_path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial_path.replace(path)
