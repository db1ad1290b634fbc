"""Rows of the scenes data: triplets for training, and the tables of a benchmark, with their pictures drawn."""

import json
import random
from collections.abc import Container, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from contextcir.data.images import encode_image
from contextcir.metrics.bound import recall_at_1_bound
from contextcir.scenes.benchmark import Picture, Question, SceneBenchmark
from contextcir.scenes.ground_truth import denotation_to_row, role, scene_to_json
from contextcir.scenes.queries import SceneQuery, sample_family
from contextcir.scenes.render import render
from contextcir.scenes.world import Scene

BENCHMARK_CONFIGS = ("gallery", "queries", "relevance", "distractors", "truth", "phrases")


def encode(picture: Picture, image_size: int) -> dict[str, Any]:
    """Draw a picture as `datasets` stores it."""
    image = render(picture.scene, picture.nuisance, image_size)
    return {"bytes": encode_image(image, "JPEG", quality=92), "path": None}


def triplet(id_: str, query: SceneQuery, reference: tuple[str, Any], target: tuple[str, Any]) -> dict[str, Any]:
    """Return the row of a triplet. Reference and target are given by id and encoded image."""
    return {
        "id": id_,
        "reference_image": reference[1],
        "target_image": target[1],
        "modification_text": query.text,
        "noun_phrases": [{"text": np.text, "start": np.start, "end": np.end} for np in query.noun_phrases],
        "reference_id": reference[0],
        "target_id": target[0],
    }


def training_queries(
    count: int, seed: int, excluded: Container[int]
) -> Iterator[tuple[SceneQuery, tuple[str, Picture], tuple[str, Picture]]]:
    """Sample families of training queries, each with the ids and pictures of its reference and its target, without the
    scenes whose hashes are in `excluded`. A scene that is edited has one picture in its family, and every target a
    picture of its own."""
    rng = random.Random(f"train {seed}")
    made = families = 0
    while made < count:
        family = sample_family(rng)
        if any(hash(scene) in excluded for query in family for scene in (query.reference, query.target)):
            continue
        pictures: list[tuple[str, Picture]] = []
        first: dict[Scene, int] = {}  # number of the first picture of a scene
        for query in family[: count - made]:
            for scene in (query.reference, query.target):
                if scene is query.target or scene not in first:
                    first.setdefault(scene, len(pictures))
                    name = f"train-{families:06d}-{len(pictures):06d}"
                    pictures.append((name, Picture(scene, rng.getrandbits(48))))
            yield query, pictures[first[query.reference]], pictures[-1]
            made += 1
        families += 1


def training_triplets(count: int, seed: int, image_size: int, excluded: Container[int]) -> Iterator[dict[str, Any]]:
    """Draw the pictures of [`training_queries`]."""
    drawn: dict[str, dict[str, Any]] = {}  # the pictures of one family
    queries = tqdm(training_queries(count, seed, excluded), "triplets", count, unit="triplet", mininterval=1)
    for number, (query, *shown) in enumerate(queries):
        family = shown[0][0].rpartition("-")[0]
        drawn = {id_: image for id_, image in drawn.items() if id_.startswith(family)}
        for id_, picture in shown:
            if id_ not in drawn:
                drawn[id_] = encode(picture, image_size)
        reference, target = ((id_, drawn[id_]) for id_, _ in shown)
        yield triplet(f"train-{number:06d}", query, reference, target)


def validation_triplets(benchmark: SceneBenchmark, image_size: int) -> Iterator[dict[str, Any]]:
    """Return the queries of a benchmark with their first targets, as triplets."""
    pictures = dict(benchmark.pictures())
    for question in benchmark.questions:
        ids = (question.reference_id, question.target_ids[0])
        reference, target = ((id_, encode(pictures[id_], image_size)) for id_ in ids)
        yield triplet(question.id, question.query, reference, target)


def gallery_rows(benchmark: SceneBenchmark, image_size: int) -> Iterator[dict[str, Any]]:
    """Draw every picture of the gallery."""
    pictures = tqdm(benchmark.pictures(), f"{benchmark.part} gallery", benchmark.gallery_size, unit="picture")
    return ({"id": id_, "image": encode(picture, image_size)} for id_, picture in pictures)


def truth_rows(benchmark: SceneBenchmark) -> Iterator[dict[str, Any]]:
    """Return scene and seed of every picture of the gallery."""
    for id_, picture in benchmark.pictures():
        yield {"id": id_, "scene": json.dumps(scene_to_json(picture.scene)), "nuisance": picture.nuisance}


def query_row(question: Question) -> dict[str, Any]:
    """Return the row of a query. Its reference image is in the gallery."""
    return {
        "id": question.id,
        "reference_image": None,
        "reference_id": question.reference_id,
        "modification_text": question.query.text,
        "candidate_ids": list(question.candidate_ids),
        "tags": question.tags,
    }


def phrase_rows(question: Question) -> Iterator[dict[str, Any]]:
    """Return the gold noun phrases of a query's text and what they denote in its reference picture."""
    for phrase in question.query.noun_phrases:
        yield {
            "query_id": question.id,
            "text": phrase.text,
            "start": phrase.start,
            "end": phrase.end,
            "is_leaf": phrase.is_leaf,
            "role": role(question.query, phrase.denotes),
            **denotation_to_row(phrase.denotes),
        }


def benchmark_rows(benchmark: SceneBenchmark, image_size: int) -> dict[str, Iterator[dict[str, Any]]]:
    """Return the rows of each of `BENCHMARK_CONFIGS`."""
    questions = benchmark.questions
    return {
        "gallery": gallery_rows(benchmark, image_size),
        "queries": map(query_row, questions),
        "relevance": ({"query_id": q.id, "target_id": target} for q in questions for target in q.target_ids),
        "distractors": (
            {"query_id": q.id, "gallery_id": id_, "kind": kind} for q in questions for id_, kind in q.wrong.items()
        ),
        "truth": truth_rows(benchmark),
        "phrases": (row for question in questions for row in phrase_rows(question)),
    }


def bounds(questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    """Return the highest recall@1 and recall_subset@1, in percent, of a model that sees only the text or the image."""
    found: dict[str, dict[str, float]] = {"recall@1": {}, "recall_subset@1": {}}
    candidates = [frozenset(q.candidate_ids) - {q.reference_id} for q in questions]
    targets = [own.intersection(q.target_ids) for own, q in zip(candidates, questions, strict=True)]
    for half, seen in (("text", [q.query.text for q in questions]), ("image", [q.reference_id for q in questions])):
        found["recall@1"][half] = recall_at_1_bound(seen, [q.target_ids for q in questions])
        found["recall_subset@1"][half] = recall_at_1_bound(list(zip(seen, candidates, strict=True)), targets)
    return found
