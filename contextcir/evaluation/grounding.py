"""Grounding of noun phrases: attention maps against the masks of what the phrases denote.

Two measures, in percent and without a threshold. *Pointing* is the pointing game (Zhang et al., ECCV 2016) at the
resolution of the map: the chance that a random point of the patch with the highest attention is inside the mask.
*Mass* is the attention inside the mask; a patch counts by the part of it that the mask covers. A random point and a
uniform map both score the area of the mask: `chance`. A patch is not wholly inside a smaller thing, so both measures
have an upper bound below 100: `ceiling`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.scenes import GroundTruth
from contextcir.evaluation.attention import attention_maps
from contextcir.evaluation.results import align
from contextcir.scenes import Denotation, denoted_mask

MEASURES = ("pointing", "mass", "chance", "ceiling")


def coverage(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Compute the part of each patch that a mask of shape `(height, width)` covers, in [0, 1]. The rows and columns of
    patches need not divide the height and width."""
    rows, columns = (_overlaps(patches, pixels) for patches, pixels in zip(shape, mask.shape, strict=True))
    return rows @ mask @ columns.T


def _overlaps(patches: int, pixels: int) -> np.ndarray:
    """Compute the part of each patch that each pixel takes, along one side: `(patches, pixels)`."""
    edges, places = np.linspace(0, pixels, patches + 1), np.arange(pixels)
    lengths = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    return lengths.clip(min=0) * patches / pixels


def kind_of(denotes: Denotation) -> str | None:
    """Return what a noun phrase denotes: one `thing`, several `things`, a `place` or the `background`; `None` if it is
    not in the image."""
    if denotes.background:
        return "background"
    if denotes.cells:
        return "place"
    return {0: None, 1: "thing"}.get(len(denotes.things), "things")


def ground(attention: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """
    Measure one attention map against one mask.

    Args:
        attention (`np.ndarray` of shape `(rows, columns)`): Values of 0 or more, with any positive sum.
        mask (`np.ndarray` of shape `(height, width)`): Booleans; the same image at any resolution.

    Returns:
        `dict[str, float]`: `pointing`, `mass`, `chance` and `ceiling`, in percent. `pointing` is the mean over all
        patches with the highest attention.

    Raises:
        `ValueError`: The map has negative or infinite values or no positive one, or the mask is empty.
    """
    if not np.isfinite(attention).all() or attention.min() < 0 or attention.sum() <= 0:
        raise ValueError(
            f"Got an attention map with values from {attention.min()} to {attention.max()}, expected finite values of"
            " 0 or more that are not all 0."
        )
    if not mask.any():
        raise ValueError("Got an empty mask. Leave out phrases that denote nothing in the image.")
    covered = coverage(mask, attention.shape)
    return {
        "pointing": 100 * float(covered[attention == attention.max()].mean()),
        "mass": 100 * float((attention * covered).sum() / attention.sum()),
        "chance": 100 * float(covered.mean()),
        "ceiling": 100 * float(covered.max()),
    }


def measure_grounding(
    model: Any, processor: Any, benchmark: Benchmark, truths: Mapping[str, GroundTruth], *, batch_size: int = 64
) -> dict[str, dict[str, float]]:
    """
    Measure the in-context attention of noun phrases, over all queries of a scenes benchmark.

    Args:
        model (`torch.nn.Module`): A model with `get_concept_attentions`, on the device to use.
        processor: Its processor, which must not crop square images.
        benchmark (`Benchmark`): The queries and their reference images.
        truths (`Mapping[str, GroundTruth]`): From [`~contextcir.benchmarks.scenes.load_ground_truth`].
        batch_size (`int`, *optional*, defaults to 64): Noun phrases at a time.

    Returns:
        `dict[str, dict[str, float]]`: `num_phrases` and the means of [`ground`], for `all` noun phrases that denote
        something in the reference image, and for each role (the kind of an edit, `kept` or `landmark`).
    """
    phrases = []  # (query, phrase, mask)
    for query in benchmark.queries:
        truth = truths[query.id]
        masks = [denoted_mask(truth.scene, truth.nuisance, phrase.denotes) for phrase in truth.phrases]
        phrases += [(query, *pair) for pair in zip(truth.phrases, masks, strict=True) if pair[1].any()]
    found: dict[str, list[dict[str, float]]] = {"all": []}
    for start in range(0, len(phrases), batch_size):
        batch = phrases[start : start + batch_size]
        images = [benchmark.gallery.reference_image(query) for query, _, _ in batch]
        spans = [{"text": phrase.text, "start": phrase.start, "end": phrase.end} for _, phrase, _ in batch]
        texts = [query.modification_text for query, _, _ in batch]
        context, _ = attention_maps(model, processor, images, texts, spans)
        for (_, phrase, mask), attention in zip(batch, context, strict=True):
            if attention is not None:
                found["all"].append(ground(attention, mask))
                found.setdefault(phrase.role, []).append(found["all"][-1])
    return {role: _means(some) for role, some in found.items() if some}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {"num_phrases": len(rows)} | {name: float(np.mean([row[name] for row in rows])) for name in MEASURES}


def format_grounding(name: str, grounding: Mapping[str, Mapping[str, float]]) -> str:
    """Format the grounding of one model as a table."""
    rows = [["", "phrases", *MEASURES]]
    for role, row in grounding.items():
        rows.append([role, str(row["num_phrases"]), *(f"{row[measure]:.1f}" for measure in MEASURES)])
    return f"Where noun phrases look, in percent: {name}\n\n{align(rows)}\n"
