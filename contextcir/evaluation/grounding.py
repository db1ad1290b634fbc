"""Do noun phrases look at what they speak of? Attention maps against masks.

Two measures, both in percent and both free of any threshold. *Pointing* is the pointing game (Zhang et al., ECCV 2016)
at the resolution that a map has: the chance that a point drawn from the patch of highest attention falls into the
mask. *Mass* is the attention inside the mask, patches counted by the part of them that it covers. A random point and a
uniform map have the area of the mask in both: that is `chance`. Since no patch lies wholly inside a thing that is
smaller, the best that either can reach stands beside them as `ceiling`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.scenes import GroundedPhrase, GroundTruth
from contextcir.evaluation.attention import attention_maps
from contextcir.scenes import denoted_mask

MEASURES = ("pointing", "mass", "chance", "ceiling")


def coverage(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """
    The part of each patch that a mask covers.

    Args:
        mask (`np.ndarray` of shape `(height, width)`): Booleans.
        shape (`tuple[int, int]`): Rows and columns of patches, of which any number may fit into the mask's pixels.

    Returns:
        `np.ndarray` of that shape: In [0, 1]. Its mean is the area of the mask.
    """
    rows, columns = (_overlaps(patches, pixels) for patches, pixels in zip(shape, mask.shape, strict=True))
    return rows @ mask @ columns.T


def _overlaps(patches: int, pixels: int) -> np.ndarray:
    """Which part of each patch each pixel takes up, along one side: `(patches, pixels)`."""
    edges, places = np.linspace(0, pixels, patches + 1), np.arange(pixels)
    lengths = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    return lengths.clip(min=0) * patches / pixels


def ground(attention: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """
    Measure one attention map against one mask.

    Args:
        attention (`np.ndarray` of shape `(rows, columns)`): Not negative, of any sum but 0.
        mask (`np.ndarray` of shape `(height, width)`): Booleans; the same image, at any resolution.

    Returns:
        `dict[str, float]`: `pointing`, `mass`, `chance` and `ceiling`, in percent. Of patches with equal attention,
        `pointing` takes the mean.

    Raises:
        `ValueError`: The map is none, or the mask is empty: there is nothing to look at.
    """
    if not np.isfinite(attention).all() or attention.min() < 0 or attention.sum() <= 0:
        raise ValueError("expected an attention map that is finite, not negative and not all zero")
    if not mask.any():
        raise ValueError("the mask is empty: leave out what is not in the picture")
    covered = coverage(mask, attention.shape)
    return {
        "pointing": 100 * float(covered[attention == attention.max()].mean()),
        "mass": 100 * float((attention * covered).sum() / attention.sum()),
        "chance": 100 * float(covered.mean()),
        "ceiling": 100 * float(covered.max()),
    }


def measure_grounding(
    model, processor, benchmark: Benchmark, truths: Mapping[str, GroundTruth], *, batch_size: int = 64
) -> dict[str, dict[str, float]]:
    """
    Measure where a model's noun phrases look in context, over all queries of a scenes benchmark.

    Args:
        model (`torch.nn.Module`): With `get_concept_attentions`, on the device to run on.
        processor: Its processor, which crops nothing of a square image.
        benchmark (`Benchmark`): The queries and their reference images.
        truths (`Mapping[str, GroundTruth]`): From [`~contextcir.benchmarks.scenes.load_ground_truth`].
        batch_size (`int`, *optional*, defaults to 64): Noun phrases at a time.

    Returns:
        `dict[str, dict[str, float]]`: For `all` noun phrases that denote something in the reference image, and for
        those of each role (an edit's kind, `kept` or `landmark`): `num_phrases` and the means of [`ground`].
    """
    asked = list(_phrases(benchmark, truths))
    found: dict[str, list[dict[str, float]]] = {"all": []}
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        images = [benchmark.gallery.reference_image(query) for query, _, _ in batch]
        spans = [{"text": phrase.text, "start": phrase.start, "end": phrase.end} for _, phrase, _ in batch]
        texts = [query.modification_text for query, _, _ in batch]
        context, _ = attention_maps(model, processor, images, texts, spans)
        for (_, phrase, mask), attention in zip(batch, context, strict=True):
            if attention is not None:
                found["all"].append(ground(attention, mask))
                found.setdefault(phrase.role, []).append(found["all"][-1])
    return {role: _means(some) for role, some in found.items() if some}


def _phrases(
    benchmark: Benchmark, truths: Mapping[str, GroundTruth]
) -> Iterator[tuple[Any, GroundedPhrase, np.ndarray]]:
    """The noun phrases that denote something in the reference image, each with its query and its mask."""
    for query in benchmark.queries:
        truth = truths[query.id]
        for phrase in truth.phrases:
            mask = denoted_mask(truth.scene, truth.nuisance, phrase.denotes)
            if mask.any():
                yield query, phrase, mask


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {"num_phrases": len(rows)} | {name: float(np.mean([row[name] for row in rows])) for name in MEASURES}


def format_grounding(name: str, grounding: Mapping[str, Mapping[str, float]]) -> str:
    """The grounding of one model in lines of equal width."""
    width = max(map(len, grounding))
    lines = [f"Where noun phrases look, in percent: {name}", ""]
    lines.append(f"{'':{width}}" + "".join(f"{title:>10}" for title in ("phrases", *MEASURES)))
    for role, row in grounding.items():
        cells = "".join(f"{row[measure]:>10.1f}" for measure in MEASURES)
        lines.append(f"{role:{width}}{row['num_phrases']:>10}{cells}")
    return "\n".join(lines) + "\n"
