"""Where noun phrases look, in context and isolated, as in figure 5 of ConText-CIR (CVPR 2025)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from contextcir.evaluation.attention import attention_maps
from contextcir.visualization.page import (
    GAP,
    GREY,
    LINE,
    MARGIN,
    SMALL,
    SMALL_LINE,
    TILE,
    Figure,
    Page,
    colormaps,
    wrap,
)


@dataclass(frozen=True)
class ConceptMaps:
    """
    Where the noun phrases of one query look in its reference image.

    Args:
        image (`Image.Image`): What the model sees of the reference image: resized and cropped by its processor.
        text (`str`): The modification text.
        phrases (`list[str]`): Its noun phrases.
        context (`list[np.ndarray | None]`): For each phrase a distribution over patches `(rows, columns)`, encoded
            inside the text; `None` where it has no tokens of its own there (cut off with the text, for example).
        isolated (`list[np.ndarray | None]`): The same for each phrase encoded by itself.
    """

    image: Image.Image
    text: str
    phrases: list[str]
    context: list[np.ndarray | None]
    isolated: list[np.ndarray | None]


def concept_maps(model, processor, image: Image.Image, text: str, noun_phrases: Sequence[Mapping]) -> ConceptMaps:
    """
    Ask a model where the noun phrases of a query look.

    Args:
        model (`torch.nn.Module`): With `get_concept_attentions`.
        processor: Its processor.
        image (`Image.Image`): The reference image, RGB.
        text (`str`): The modification text.
        noun_phrases (`Sequence[Mapping]`): `{"text", "start", "end"}`, characters of the text. There may be none.

    Returns:
        [`ConceptMaps`]

    Raises:
        `ValueError`: A span lies outside the text.
    """
    count = len(noun_phrases)
    context, isolated = attention_maps(model, processor, [image] * count, [text] * count, noun_phrases)
    pixel_values = processor(images=[image], return_tensors="pt")["pixel_values"]  # (1, 3, height, width)
    phrases = [phrase["text"] for phrase in noun_phrases]
    return ConceptMaps(_seen(pixel_values[0], processor), text, phrases, context, isolated)


def _seen(pixel_values: torch.Tensor, processor) -> Image.Image:
    """Undo the normalisation: `(3, height, width)` -> RGB."""
    normalisation = processor.image_processor
    pixels = pixel_values.permute(1, 2, 0).numpy() * np.array(normalisation.image_std) + normalisation.image_mean
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def total_variation(context: np.ndarray, isolated: np.ndarray) -> float:
    """Half the absolute difference of two distributions, in [0, 1]: the concept consistency loss of one phrase."""
    return float(np.abs(context - isolated).sum() / 2)


def heat_overlay(image: Image.Image, attention: np.ndarray, maximum: float) -> Image.Image:
    """
    Lay an attention map, from yellow to red, over a pale copy of an image.

    Args:
        image (`Image.Image`): RGB.
        attention (`np.ndarray` of shape `(rows, columns)`): Not negative; patches from the top left.
        maximum (`float`): The attention with the full colour: the same for maps that are to be compared.

    Returns:
        `Image.Image`: RGB, of the image's size.
    """
    level = Image.fromarray((attention / maximum).astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    level = np.asarray(level).clip(0, 1)[..., None]  # (height, width, 1)
    heat = colormaps["YlOrRd"](0.85 * level[..., 0])[..., :3]  # without its brown end
    pixels = np.asarray(image, dtype=np.float32) / 255
    pale = 0.45 + 0.33 * pixels.mean(axis=2, keepdims=True) + 0.22 * pixels
    opacity = 0.75 * np.minimum(1, 2 * level)  # the yellow of little attention must be seen on a light image
    return Image.fromarray((255 * ((1 - opacity) * pale + opacity * heat)).round().astype(np.uint8))


def concept_attention_figure(runs: Mapping[str, Sequence[ConceptMaps]], *, max_phrases: int = 4) -> Figure:
    """
    Draw where the noun phrases of queries look: in context and isolated side by side, a row for each model.

    The maps of a pair share a colour scale, from 0 to the larger of their maxima. Below a pair stands its total
    variation distance.

    Args:
        runs (`Mapping[str, Sequence[ConceptMaps]]`):
            For each model, by its name in the figure, the maps of the same queries with the same phrases.
        max_phrases (`int`, *optional*, defaults to 4): How many phrases of a query to show: the first ones.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        `ValueError`: There is nothing to draw, or the models were asked different things.
    """
    asked = [[(maps.text, maps.phrases) for maps in queries] for queries in runs.values()]
    if not asked or not asked[0]:
        raise ValueError("There are no attention maps to draw.")
    if any(other != asked[0] for other in asked):
        raise ValueError(f"The attention maps of {' and '.join(runs)} are of different queries or noun phrases.")

    pair_width = 2 * TILE + 4
    names_width = 150 if len(runs) > 1 else 0
    pairs_left = MARGIN + TILE + names_width + 2 * GAP
    width = pairs_left + max_phrases * (pair_width + 2 * GAP) - 2 * GAP + MARGIN
    blocks = []
    for maps in zip(*runs.values(), strict=True):  # the models' maps of one query
        text = wrap(maps[0].text, width - 2 * MARGIN)
        titles = [wrap(phrase, pair_width, SMALL, 2, "bold") for phrase in maps[0].phrases[:max_phrases]]
        head = len(text) * LINE + 10 + ((max(map(len, titles)) + 1) * SMALL_LINE + 4 if titles else 0)
        blocks.append((maps, text, titles, head))
    row_height = TILE + 34
    heights = [head + (len(runs) if titles else 1) * row_height + 14 for *_, titles, head in blocks]
    page = Page(width, MARGIN + 2 * LINE + sum(heights))

    top = MARGIN
    _attention_key(page, top)
    top += 2 * LINE
    for (maps, text, titles, head), height in zip(blocks, heights, strict=True):
        page.text(MARGIN, top, text)
        top, bottom = top + head, top + height
        for place, title in enumerate(titles):
            left = pairs_left + place * (pair_width + 2 * GAP)
            page.text(left, top - SMALL_LINE - 8, title, size=SMALL, weight="bold", valign="bottom")
            for x, kind in ((left, "in context"), (left + TILE + 4, "isolated")):
                page.text(x, top - 5, kind, size=SMALL, color=GREY, valign="bottom")
        page.tile(MARGIN, top, maps[0].image, "reference")
        if not titles:
            page.text(pairs_left, top + TILE / 2, "no noun phrase", color=GREY, valign="center")
        for name, own in zip(runs, maps, strict=True) if titles else ():
            if names_width:
                lines = wrap(name, names_width - GAP, SMALL, 5)
                page.text(pairs_left - GAP, top + TILE / 2, lines, size=SMALL, align="right", valign="center")
            for place in range(len(titles)):
                _draw_pair(page, pairs_left + place * (pair_width + 2 * GAP), top, own, place)
            top += row_height
        top = bottom
    return page.figure


def _draw_pair(page: Page, left: float, top: float, maps: ConceptMaps, place: int) -> None:
    context, isolated = maps.context[place], maps.isolated[place]
    if context is None or isolated is None:
        middle = {"align": "center", "valign": "center"}
        page.text(left + TILE, top + TILE / 2, "no tokens of its own", size=SMALL, color=GREY, **middle)
        return
    maximum = max(context.max(), isolated.max())
    for x, attention in ((left, context), (left + TILE + 4, isolated)):
        page.tile(x, top, heat_overlay(maps.image, attention, maximum))
    label = f"TV {total_variation(context, isolated):.2f}"
    page.text(left + TILE + 2, top + TILE + 7, label, size=SMALL, align="center")


def _attention_key(page: Page, top: float) -> None:
    page.text(MARGIN, top, "Attention", color=GREY)
    scale = heat_overlay(Image.new("RGB", (120, 10), "white"), np.linspace(0, 1, 120)[None], 1)
    page.framed(MARGIN + 84, top + 3, *scale.size, scale)
    text = "0 to the larger maximum of a pair.     TV: total variation distance of a pair, from 0 (same) to 1 (apart)."
    page.text(MARGIN + 216, top, text, color=GREY)
