"""Maps that training draws noun phrases to, such as those of `contextcir ground`, to look at before training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from contextcir.visualization.concepts import heat_overlay
from contextcir.visualization.page import GAP, GREY, LINE, MARGIN, SMALL, SMALL_LINE, TILE, Figure, Page, wrap

MAP = 1.5 * TILE  # width of a map with its phrase


@dataclass(frozen=True)
class GivenMaps:
    """
    Maps of the noun phrases of one triplet.

    Args:
        reference (`Image.Image`): The reference image as the model sees it.
        target (`Image.Image`): The target image likewise.
        text (`str`): The modification text.
        phrases (`list[str]`): Its noun phrases.
        maps (`list[np.ndarray]`): For each phrase weights of the patches of the reference image `(rows, columns)`,
            with a sum of at most 1.
    """

    reference: Image.Image
    target: Image.Image
    text: str
    phrases: list[str]
    maps: list[np.ndarray]


def given_maps_figure(triplets: Sequence[GivenMaps], *, max_phrases: int = 4) -> Figure:
    """
    Draw the maps of noun phrases over reference images, a row for each triplet. The maps of a row share a colour
    scale. Each is drawn as if it were trusted in full; the label below says how far it is.

    Args:
        triplets (`Sequence[GivenMaps]`): What to draw.
        max_phrases (`int`, *optional*, defaults to 4): Number of phrases of a triplet to show: the first ones.

    Raises:
        `ValueError`: There is no map.
    """
    if not any(one.maps for one in triplets):
        raise ValueError(f"Got no map in {len(triplets)} triplets, expected at least one.")
    left = MARGIN + 2 * (TILE + GAP) + GAP
    width = left + max_phrases * (MAP + GAP) - GAP + MARGIN
    blocks = []
    for one in triplets:
        text = wrap(one.text, width - 2 * MARGIN)
        titles = [wrap(phrase, MAP, SMALL, 2, "bold") for phrase in one.phrases[:max_phrases]]
        head = len(text) * LINE + 10 + max(map(len, titles), default=0) * SMALL_LINE
        blocks.append((one, text, titles, head))
    page = Page(width, MARGIN + 2 * LINE + sum(head + TILE + 44 for *_, head in blocks))
    page.text(MARGIN, MARGIN, "Weight", color=GREY)
    scale = heat_overlay(Image.new("RGB", (120, 10), "white"), np.linspace(0, 1, 120)[None], 1)
    page.framed(MARGIN + 64, MARGIN + 3, scale.size, scale, None)
    key = "0 to the maximum of each row. Below: how far a map is trusted."
    page.text(MARGIN + 196, MARGIN, key, color=GREY)
    top = MARGIN + 2 * LINE
    for one, text, titles, head in blocks:
        page.text(MARGIN, top, text)
        y = top + head
        page.tile(MARGIN, y, one.reference, "reference")
        page.tile(MARGIN + TILE + GAP, y, one.target, "target")
        trusts = [grid.sum() for grid in one.maps]
        shapes = [grid / max(trust, 1e-12) for grid, trust in zip(one.maps, trusts, strict=True)]
        maximum = max((shape.max() for shape in shapes), default=0) or 1
        for place, (title, shape, trust) in enumerate(zip(titles, shapes, trusts, strict=False)):
            x = left + place * (MAP + GAP)
            page.text(x, y - 5, title, size=SMALL, weight="bold", va="bottom")
            page.tile(x, y, heat_overlay(one.reference, shape, maximum), f"{100 * trust:.0f} %")
        top = y + TILE + 44
    return page.figure
