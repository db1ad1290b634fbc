"""Attention maps of noun phrases, in context and isolated, as in figure 5 of ConText-CIR (CVPR 2025)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from contextcir.benchmarks.scenes import GroundTruth
from contextcir.evaluation.attention import attention_maps
from contextcir.evaluation.grounding import attention_of_things, kind_of
from contextcir.scenes import Thing, cell_mask, denoted_mask
from contextcir.visualization.page import (
    GAP,
    GREY,
    HEAT,
    LINE,
    MARGIN,
    REFERENCE,
    SMALL,
    SMALL_LINE,
    TARGET,
    TILE,
    Figure,
    Page,
    wrap,
)

OUTLINE = (20, 70, 200)  # of what a phrase denotes
Choice = tuple[np.ndarray, bool]  # the cell of the thing with the most attention, and whether it is the named one


@dataclass(frozen=True)
class TruePhrase:
    """
    The truth about a noun phrase, and what its map in context chooses.

    Args:
        mask (`np.ndarray` of shape `(height, width)`): What the phrase denotes in the reference image; booleans.
        choice (`tuple[np.ndarray, bool]`, *optional*): For a phrase that names one thing, a mask of the cell of the
            thing with the most attention, and whether that is the named one.
    """

    mask: np.ndarray
    choice: Choice | None = None


@dataclass(frozen=True)
class ConceptMaps:
    """
    Attention maps of the noun phrases of one query over its reference image.

    Args:
        image (`Image.Image`): The reference image as the model sees it: resized and cropped by its processor.
        text (`str`): The modification text.
        phrases (`list[str]`): Its noun phrases.
        context (`list[np.ndarray | None]`): For each phrase, encoded inside the text, a distribution over patches
            `(rows, columns)`; `None` if no token belongs to the phrase, for example because the text was truncated.
        isolated (`list[np.ndarray | None]`): The same for each phrase encoded alone.
        truths (`list[TruePhrase | None]`): For each phrase what it denotes, where that is known; or empty.
    """

    image: Image.Image
    text: str
    phrases: list[str]
    context: list[np.ndarray | None]
    isolated: list[np.ndarray | None]
    truths: list[TruePhrase | None] = field(default_factory=list)


def concept_maps(
    model: Any,
    processor: Any,
    image: Image.Image,
    text: str,
    noun_phrases: Sequence[Mapping[str, Any]],
    truth: GroundTruth | None = None,
) -> ConceptMaps:
    """
    Compute the attention maps of the noun phrases of a query.

    Args:
        model (`torch.nn.Module`): With `get_concept_attentions`.
        processor: Its processor.
        image (`Image.Image`): The reference image, RGB.
        text (`str`): The modification text.
        noun_phrases (`Sequence[Mapping]`): `{"text", "start", "end"}`, characters of the text. May be empty.
        truth (`GroundTruth`, *optional*): What the phrases of the text denote in the image. It serves the phrases with
            the same characters.

    Returns:
        [`ConceptMaps`]

    Raises:
        `ValueError`: A span is outside of the text.
    """
    count = len(noun_phrases)
    context, isolated = attention_maps(model, processor, [image] * count, [text] * count, noun_phrases)
    seen = seen_image(processor, image)
    truths = [_true_phrase(truth, phrase, grid) for phrase, grid in zip(noun_phrases, context, strict=True)]
    return ConceptMaps(seen, text, [phrase["text"] for phrase in noun_phrases], context, isolated, truths)


def seen_image(processor: Any, image: Image.Image) -> Image.Image:
    """Return an image, RGB, as a model sees it: resized and made a square by its processor."""
    pixel_values = processor(images=[image], return_tensors="pt")["pixel_values"][0]  # (3, height, width)
    normalisation = processor.image_processor
    pixels = pixel_values.permute(1, 2, 0).numpy() * np.array(normalisation.image_std) + normalisation.image_mean
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def _true_phrase(truth: GroundTruth | None, phrase: Mapping[str, Any], grid: np.ndarray | None) -> TruePhrase | None:
    """Return the truth about a noun phrase whose map is `grid`; `None` if none is known or nothing is denoted."""
    known = {(other.start, other.end): other.denotes for other in truth.phrases} if truth else {}
    denotes = known.get((phrase["start"], phrase["end"]))
    if truth is None or denotes is None or (kind := kind_of(denotes)) is None:
        return None
    choice: Choice | None = None
    if kind == "thing" and grid is not None:
        most: Thing = truth.scene.things[int(attention_of_things(grid, truth.scene).argmax())]
        choice = cell_mask(most.cell), most == denotes.things[0]
    return TruePhrase(denoted_mask(truth.scene, truth.nuisance, denotes), choice)


def total_variation(context: np.ndarray, isolated: np.ndarray) -> float:
    """Return the total variation distance of two maps, in [0, 1]: the concept consistency loss of one phrase."""
    return float(np.abs(context - isolated).sum() / 2)


def heat_overlay(image: Image.Image, attention: np.ndarray, maximum: float) -> Image.Image:
    """
    Return a pale copy of an image, RGB, with an attention map over it from yellow to red.

    Args:
        image (`Image.Image`): RGB.
        attention (`np.ndarray` of shape `(rows, columns)`): Not negative; patches from the top left.
        maximum (`float`): The attention of the full colour. Use the same value for maps that are compared.
    """
    resized = Image.fromarray((attention / maximum).astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    level = np.asarray(resized).clip(0, 1)[..., None]  # (height, width, 1)
    heat = HEAT(0.85 * level[..., 0])[..., :3]  # without the brown end of the colour map
    pixels = np.asarray(image, dtype=np.float32) / 255
    pale = 0.45 + 0.33 * pixels.mean(axis=2, keepdims=True) + 0.22 * pixels
    opacity = 0.75 * np.minimum(1, 2 * level)  # makes weak attention (yellow) visible on light images
    return Image.fromarray((255 * ((1 - opacity) * pale + opacity * heat)).round().astype(np.uint8))


def outlined(image: Image.Image, mask: np.ndarray, color: tuple[int, int, int]) -> Image.Image:
    """Return a copy of an image with a line along the inner edge of a mask `(height, width)` of any resolution."""
    inside = np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
    padded = np.pad(inside, 1)  # the edge of the image closes the line
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    pixels = np.array(image)
    pixels[inside & ~core] = color
    return Image.fromarray(pixels)


def concept_attention_figure(runs: Mapping[str, Sequence[ConceptMaps]], *, max_phrases: int = 4) -> Figure:
    """
    Draw attention maps of noun phrases, in context and isolated side by side, with a row for each model.

    The maps of a pair share a colour scale, from 0 to the larger of their maxima. The label below a pair is its total
    variation distance. Where the truth is known, a blue line surrounds what a phrase denotes; and in the map in
    context a frame stands around the cell of the thing with the most attention, green if the phrase names it.

    Args:
        runs (`Mapping[str, Sequence[ConceptMaps]]`): Name of a model in the figure -> its maps. All models have maps
            of the same queries and phrases.
        max_phrases (`int`, *optional*, defaults to 4): Number of phrases of a query to show: the first ones.

    Raises:
        `ValueError`: There are no maps, or the models have maps of different queries or phrases.
    """
    contents = [[(maps.text, maps.phrases) for maps in queries] for queries in runs.values()]
    if not contents or not contents[0]:
        raise ValueError(f"Got 0 attention maps of {len(runs)} models to draw, expected at least 1.")
    if any(other != contents[0] for other in contents):
        raise ValueError(f"Got maps of {' and '.join(runs)} for different queries or phrases, expected the same.")

    pair_width = 2 * TILE + 4
    names_width = 150 if len(runs) > 1 else 0
    pairs_left = MARGIN + TILE + names_width + 2 * GAP
    lefts = [pairs_left + place * (pair_width + 2 * GAP) for place in range(max_phrases)]
    width = max(lefts[-1] + pair_width + MARGIN, 1040)  # room for the key
    blocks = []
    for maps in zip(*runs.values(), strict=True):  # of one query, by model
        text = wrap(maps[0].text, width - 2 * MARGIN)
        titles = [wrap(phrase, pair_width, SMALL, 2, "bold") for phrase in maps[0].phrases[:max_phrases]]
        head = len(text) * LINE + 10 + ((max(map(len, titles)) + 1) * SMALL_LINE + 4 if titles else 0)
        blocks.append((maps, text, titles, head))
    row_height = TILE + 34
    heights = [head + (len(runs) if titles else 1) * row_height + 14 for *_, titles, head in blocks]
    with_truth = any(truth for queries in runs.values() for maps in queries for truth in maps.truths)
    first = MARGIN + (3 if with_truth else 2) * LINE
    page = Page(width, first + sum(heights))

    page.text(MARGIN, MARGIN, "Attention", color=GREY)
    scale = heat_overlay(Image.new("RGB", (120, 10), "white"), np.linspace(0, 1, 120)[None], 1)
    page.framed(MARGIN + 84, MARGIN + 3, scale.size, scale, None)
    key = "0 to the maximum of each pair.     TV: total variation distance of a pair, 0 (equal) to 1 (disjoint)."
    page.text(MARGIN + 216, MARGIN, key, color=GREY)
    if with_truth:
        key = (
            "Blue line: what the phrase names. Frame: the thing with the most attention, green if it is the named one."
        )
        page.text(MARGIN + 84, MARGIN + LINE, key, color=GREY)
    top = first
    for (maps, text, titles, head), height in zip(blocks, heights, strict=True):
        page.text(MARGIN, top, text)
        first_row = top + head
        page.tile(MARGIN, first_row, maps[0].image, "reference")
        if not titles:
            page.text(pairs_left, first_row + TILE / 2, "no noun phrases", color=GREY, va="center")
        for left, title in zip(lefts, titles, strict=False):
            page.text(left, first_row - SMALL_LINE - 8, title, size=SMALL, weight="bold", va="bottom")
            page.note(left, first_row - 5, "in context", va="bottom")
            page.note(left + TILE + 4, first_row - 5, "isolated", va="bottom")
        for row, (name, own) in enumerate(zip(runs, maps, strict=True) if titles else ()):
            y = first_row + row * row_height
            if names_width:
                lines = wrap(name, names_width - GAP, SMALL, 5)
                page.text(pairs_left - GAP, y + TILE / 2, lines, size=SMALL, ha="right", va="center")
            for place in range(len(titles)):
                _draw_pair(page, lefts[place], y, own, place)
        top += height
    return page.figure


def _draw_pair(page: Page, left: float, top: float, maps: ConceptMaps, place: int) -> None:
    context, isolated = maps.context[place], maps.isolated[place]
    if context is None or isolated is None:
        page.note(left + TILE, top + TILE / 2, "no tokens", ha="center", va="center")
        return
    maximum = max(context.max(), isolated.max())
    truth = maps.truths[place] if maps.truths else None
    for x, attention, chooses in ((left, context, True), (left + TILE + 4, isolated, False)):
        drawn = heat_overlay(maps.image, attention, maximum)
        if truth is not None:
            drawn = outlined(drawn, truth.mask, OUTLINE)
            if truth.choice is not None and chooses:
                cell, right = truth.choice
                drawn = outlined(drawn, cell, ImageColor.getrgb(TARGET if right else REFERENCE)[:3])
        page.tile(x, top, drawn)
    label = f"TV {total_variation(context, isolated):.2f}"
    page.text(left + TILE + 2, top + TILE + 7, label, size=SMALL, ha="center")
