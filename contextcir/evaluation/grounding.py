"""Grounding of noun phrases: attention maps against the masks of what the phrases denote.

Three measures, in percent and without a threshold. *Pointing* is the pointing game (Zhang et al., ECCV 2016) at the
resolution of the map: the chance that a random point of the patch with the highest attention is inside the mask.
*Mass* is the attention inside the mask; a patch counts by the part of it that the mask covers. *Choice* is how often
the thing that a phrase names gets more attention than every other thing of the picture: the attention in its cell.

Each has a null. A random point and a uniform map both score the area of the mask: `chance`. A patch is not wholly
inside a smaller thing, so both measures have an upper bound below 100: `ceiling`. For choice chance is 1 by the number
of things. The area is a weak null for things, which stand out of their background: a map that knows nothing of the
text points at them more often than area predicts. So the same measures are taken on the same pictures of the model
with random projections in place of those that compare text and image: `random_pointing`, `random_mass` and
`random_choice`.

Things take a few percent of a picture, places a ninth and a background most of it: their means are read apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.scenes import GroundTruth
from contextcir.evaluation.attention import attention_maps
from contextcir.evaluation.results import align
from contextcir.scenes import Denotation, Scene, cell_mask, denoted_mask

MEASURES = ("pointing", "mass", "choice")
COLUMNS = (  # of the table: heading, key
    ("pointing", "pointing"),
    ("random map", "random_pointing"),
    ("area", "chance"),
    ("at most", "ceiling"),
    ("mass", "mass"),
    ("random map", "random_mass"),
    ("choice", "choice"),
    ("random map", "random_choice"),
    ("1/things", "choice_chance"),
)
KINDS = ("thing", "things", "place", "background")


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


def attention_of_things(attention: np.ndarray, scene: Scene) -> np.ndarray:
    """Return the attention in the cell of each thing of a scene, `(num_things,)`, of a map `(rows, columns)`."""
    return np.array([(attention * coverage(cell_mask(thing.cell), attention.shape)).sum() for thing in scene.things])


def choose(attention: np.ndarray, scene: Scene, denotes: Denotation) -> dict[str, float]:
    """
    Measure whether one attention map tells the thing that a noun phrase names from the other things.

    Args:
        attention (`np.ndarray` of shape `(rows, columns)`): As for [`ground`].
        scene (`Scene`): The picture's scene.
        denotes (`Denotation`): One thing of it.

    Returns:
        `dict[str, float]`: `choice`, 100 if the thing's cell has the most attention, a share of it if others have
        as much, and otherwise 0; and `choice_chance`, in percent.

    Raises:
        `ValueError`: The phrase does not denote exactly one thing of the scene.
    """
    if kind_of(denotes) != "thing" or denotes.things[0] not in scene.things:
        raise ValueError(f"Got a phrase for {denotes}, expected one for exactly one of {scene.things}.")
    found = attention_of_things(attention, scene)
    best = np.isclose(found, found.max(), rtol=1e-9, atol=0)
    return {
        "choice": 100 * float(best[scene.things.index(denotes.things[0])] / best.sum()),
        "choice_chance": 100 / len(found),
    }


def measure_grounding(
    model: Any,
    processor: Any,
    benchmark: Benchmark,
    truths: Mapping[str, GroundTruth],
    *,
    batch_size: int = 64,
    random_maps: int = 3,
) -> dict[str, dict[str, float]]:
    """
    Measure the in-context attention of noun phrases, over all queries of a scenes benchmark.

    Args:
        model (`torch.nn.Module`): A model with `get_concept_attentions`, on the device to use. Without
            `with_random_attention` it has no random maps.
        processor: Its processor, which must not crop square images.
        benchmark (`Benchmark`): The queries and their reference images.
        truths (`Mapping[str, GroundTruth]`): From [`~contextcir.benchmarks.scenes.load_ground_truth`].
        batch_size (`int`, *optional*, defaults to 64): Noun phrases at a time.
        random_maps (`int`, *optional*, defaults to 3): Random projections whose mean is the null; each takes as long
            as the measure itself. With 0 there is none.

    Returns:
        `dict[str, dict[str, float]]`: For `all` noun phrases that denote something in the reference image, for each
        kind ([`kind_of`]) and for each role (the kind of an edit, `kept` or `landmark`): `num_phrases` and the means
        of [`ground`] and of its random maps, and for those of one thing those of [`choose`].
    """
    random_maps = random_maps if hasattr(model, "with_random_attention") else 0
    nulls = [model.with_random_attention(seed) for seed in range(random_maps)]
    found: dict[str, list[dict[str, float]]] = {"all": [], **{kind: [] for kind in KINDS}}
    phrases = [
        (query, phrase, kind)
        for query in benchmark.queries
        for phrase in truths[query.id].phrases
        if (kind := kind_of(phrase.denotes))
    ]
    for start in range(0, len(phrases), batch_size):
        batch = phrases[start : start + batch_size]
        images = [benchmark.gallery.reference_image(query) for query, _, _ in batch]
        spans = [{"text": phrase.text, "start": phrase.start, "end": phrase.end} for _, phrase, _ in batch]
        texts = [query.modification_text for query, _, _ in batch]
        context, *random = (attention_maps(one, processor, images, texts, spans)[0] for one in (model, *nulls))
        for place, (query, phrase, kind) in enumerate(batch):
            row, *others = (_measured(maps[place], truths[query.id], phrase.denotes) for maps in (context, *random))
            if row is None:
                continue
            if others:
                row |= {f"random_{name}": _mean(others, name) for name in MEASURES if name in row}
            for group in {"all", kind, phrase.role}:
                found.setdefault(group, []).append(row)
    return {group: _means(rows) for group, rows in found.items() if rows}


def _measured(attention: np.ndarray | None, truth: GroundTruth, denotes: Denotation) -> dict[str, float] | None:
    if attention is None:  # the phrase has no tokens, whatever the map
        return None
    row = ground(attention, denoted_mask(truth.scene, truth.nuisance, denotes))
    return row | (choose(attention, truth.scene, denotes) if kind_of(denotes) == "thing" else {})


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means of each number over the phrases that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {"num_phrases": len(rows)} | {name: _mean([row for row in rows if name in row], name) for name in names}


def _mean(rows: Sequence[Any], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def format_grounding(name: str, grounding: Mapping[str, Mapping[str, float]]) -> str:
    """Format the grounding of one model as a table: a line for each kind of phrase, then for each role."""
    rows = [["", "phrases", *(heading for heading, _ in COLUMNS)]]
    for group, row in grounding.items():
        cells = (f"{row[key]:.1f}" if key in row else "" for _, key in COLUMNS)
        rows.append([group, str(row["num_phrases"]), *cells])
    return f"Where noun phrases look, in percent: {name}\n\n{align(rows)}\n"
