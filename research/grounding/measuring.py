"""Measure what a model finds on the validation benchmarks, query by query, and where its noun phrases look.

All models here have one frozen image encoder, so its output for the pictures of the benchmarks is kept on disk.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contextcir.benchmarks.base import Benchmark, means
from contextcir.evaluation.grounding import KINDS, measure_grounding
from contextcir.retrieval.ranking import rank
from contextcir.scenes import render
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from research.grounding.data import BENCHMARK_SEEDS, IMAGE_SIZE, PARTS, benchmark, composed

BATCH = 256
ANOTHER = 1_000_000  # from here on, seeds of pictures that no benchmark has


@torch.inference_mode()
def measure_run(folder: Path, kept: Path) -> dict[str, Any]:
    """
    Measure a saved model.

    Args:
        folder (`Path`): Model and processor.
        kept (`Path`): Folder for the benchmarks and their encoded pictures.

    Returns:
        `dict`: `parts`, for each part its `metrics` and the `hits` of each metric, a digit for each query of the
        benchmarks in their order; `grounding`, of the iid part by kind of phrase; and `redrawn`, of [`_redrawn`].
    """
    model, processor = ContextCIRModel.from_pretrained(folder).eval(), ContextCIRProcessor.from_pretrained(folder)
    parts: dict[str, Any] = {}
    for part in PARTS:
        benchmarks = [benchmark(part, seed, kept) for seed in BENCHMARK_SEEDS]
        scores = [_scores(model, processor, some, kept) for some in benchmarks]
        joined = {name: np.concatenate([one[name] for one in scores]) for name in scores[0]}
        parts[part] = {
            "protocol_ids": [some.protocol_id for some in benchmarks],
            "num_queries": sum(len(some.queries) for some in benchmarks),
            "metrics": means(joined),
            "hits": {name: "".join("1" if value else "0" for value in values) for name, values in joined.items()},
        }
    redrawn = _redrawn(model, processor, kept)
    return {"parts": parts, "redrawn": redrawn, "grounding": _grounding(model, processor, kept)}


def _scores(model: Any, processor: Any, some: Benchmark, kept: Path) -> dict[str, np.ndarray]:
    """Return the scores of each query, as [`~contextcir.benchmarks.base.Benchmark.scores`]."""
    tokens = _tokens(model, processor, some, kept)
    gallery = torch.cat(
        [model._embed_gallery(part, model.fusion.prepare_images(part)) for part in tokens.split(BATCH)]
    )
    places = torch.tensor([some.gallery.positions[query.reference_id or ""] for query in some.queries])
    inputs = processor(text=[query.modification_text for query in some.queries])
    mask = model._text_mask(inputs["input_ids"], inputs["attention_mask"])
    queries = model._fuse_texts(model.fusion.prepare_images(tokens[places]), inputs["input_ids"], mask)[0]
    return some.scores(rank(some.queries, some.gallery, queries, gallery, some.k, some.exclude_reference))


def _redrawn(model: Any, processor: Any, kept: Path) -> dict[str, float]:
    """Return what the first iid benchmark would give if composition were perfect: each query is its target itself,
    with other jitter, light and noise, embedded as a gallery image is."""
    seed = BENCHMARK_SEEDS[0]
    some, found = benchmark("iid", seed, kept), composed("iid", seed)
    pictures = dict(found.pictures())
    images = [
        np.asarray(render(pictures[question.target_ids[0]].scene, ANOTHER + place, IMAGE_SIZE))
        for place, question in enumerate(found.questions)
    ]

    def embed(tokens: Tensor) -> Tensor:
        return model._embed_gallery(tokens, model.fusion.prepare_images(tokens))

    queries = embed(model.encode_images(processor(images=images)["pixel_values"]))
    gallery = torch.cat([embed(part) for part in _tokens(model, processor, some, kept).split(BATCH)])
    return means(some.scores(rank(some.queries, some.gallery, queries, gallery, some.k, some.exclude_reference)))


def _tokens(model: Any, processor: Any, some: Benchmark, kept: Path) -> Tensor:
    """Return the encoded pictures of a gallery, `(gallery_size, num_image_tokens, dim)`, from the disk if they are
    there. The file is named by the pictures and the encoder."""
    name = hashlib.blake2b(some.protocol_id.encode(), digest_size=8)
    for tensor in model.vision_model.state_dict().values():
        name.update(tensor.numpy().tobytes())
    path = kept / f"tokens-{name.hexdigest()}.npy"
    if not path.exists():
        images = list(some.gallery.images)
        batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        encoded = [model.encode_images(processor(images=batch)["pixel_values"]) for batch in batches]
        kept.mkdir(parents=True, exist_ok=True)
        np.save(path, torch.cat(encoded).numpy())
    return torch.from_numpy(np.load(path))


def _grounding(model: Any, processor: Any, kept: Path) -> dict[str, dict[str, float]]:
    """Return the means over the iid benchmarks, each phrase of which counts alike."""
    model.encode_images = _remembered(model.encode_images)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in BENCHMARK_SEEDS:
        some = benchmark("iid", seed, kept)
        truths = some.ground_truth() if some.ground_truth else {}
        for kind, row in measure_grounding(model, processor, some, truths).items():
            if kind in KINDS:
                rows.setdefault(kind, []).append(row)
    return {kind: _mean(some) for kind, some in rows.items()}


def _remembered(encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return an encoder that encodes each picture once: a reference has many phrases."""
    known: dict[bytes, Tensor] = {}

    def encode_new(pixel_values: Tensor) -> Tensor:
        keys = [hashlib.blake2b(pixels.numpy().tobytes()).digest() for pixels in pixel_values]
        new = {key: place for place, key in enumerate(keys) if key not in known}
        if new:
            known.update(zip(new, encode(pixel_values[list(new.values())]), strict=True))
        return torch.stack([known[key] for key in keys])

    return encode_new


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    counts = [row["num_phrases"] for row in rows]
    found = {name: float(np.average([row[name] for row in rows], weights=counts)) for name in rows[0]}
    return found | {"num_phrases": sum(counts)}
