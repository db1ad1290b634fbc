"""Attention maps of noun phrases at several steps of one training."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from contextcir.evaluation.grounding import ground
from contextcir.visualization.concepts import OUTLINE, ConceptMaps, heat_overlay, outlined
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
    wrap,
)

NAMES = 150  # width of the phrases
ROW = TILE + 30  # height of a row of maps with its labels


def attention_steps_figure(steps: Mapping[int, Sequence[ConceptMaps]], *, max_phrases: int = 2) -> Figure:
    """
    Draw the attention maps of noun phrases in context through a training: a row for each phrase, a column for each
    step.

    The maps of a row share a colour scale, from 0 to the largest of their maxima. Where the truth is known, a blue
    line surrounds what a phrase denotes, and the label below a map is the attention inside of it. The label beside the
    row is what a map that is the same everywhere has there.

    Args:
        steps (`Mapping[int, Sequence[ConceptMaps]]`): Number of optimizer steps -> the maps of the model then. All
            have maps of the same queries and phrases.
        max_phrases (`int`, *optional*, defaults to 2): Number of phrases of a query to show: the first ones that have
            a map.

    Raises:
        `ValueError`: There are no maps, or maps of different queries or phrases.
    """
    order = sorted(steps)
    contents = [[(maps.text, maps.phrases) for maps in steps[step]] for step in order]
    if not contents or not any(phrases for _, phrases in contents[0]):
        raise ValueError(f"Got no attention map of a phrase at {len(order)} steps to draw, expected at least 1.")
    if any(other != contents[0] for other in contents):
        raise ValueError(f"Got maps at the steps {order} of different queries or phrases, expected the same.")

    left = MARGIN + TILE + NAMES + 3 * GAP
    width = max(left + len(order) * (TILE + GAP) - GAP + MARGIN, 880)
    blocks = []
    for place, first in enumerate(steps[order[0]]):
        shown = [number for number, grid in enumerate(first.context) if grid is not None][:max_phrases]
        if shown:
            text = wrap(first.text, width - 2 * MARGIN)
            blocks.append((place, first, shown, text, len(text) * LINE + 10 + len(shown) * ROW + 12))
    with_truth = any(_truth(first, number) is not None for _, first, shown, *_ in blocks for number in shown)
    head = (3 if with_truth else 2) * LINE + SMALL_LINE
    page = Page(width, MARGIN + head + sum(height for *_, height in blocks))

    page.text(MARGIN, MARGIN, "Attention", color=GREY)
    scale = heat_overlay(Image.new("RGB", (120, 10), "white"), np.linspace(0, 1, 120)[None], 1)
    page.framed(MARGIN + 84, MARGIN + 3, scale.size, scale, None)
    page.text(MARGIN + 216, MARGIN, "0 to the maximum of each row.", color=GREY)
    if with_truth:
        key = "Blue line: what the phrase names. Percent: the attention inside of it."
        page.text(MARGIN + 84, MARGIN + LINE, key, color=GREY)
    top = MARGIN + head
    for column, step in enumerate(order):
        label = f"step {step:,}" if column == 0 else f"{step:,}"
        page.text(left + column * (TILE + GAP) + TILE / 2, top - 6, label, ha="center", va="bottom", size=SMALL)
    for place, first, shown, text, height in blocks:
        page.text(MARGIN, top, text)
        y = top + len(text) * LINE + 10
        page.tile(MARGIN, y, first.image, "reference")
        for number in shown:
            title = wrap(first.phrases[number], NAMES - GAP, SMALL, 5, "bold")
            page.text(left - 2 * GAP, y + TILE / 2, title, size=SMALL, weight="bold", ha="right", va="center")
            if (mask := _truth(first, number)) is not None:
                even = ground(np.full_like(first.context[number], 1), mask)["mass"]
                below = y + (TILE + len(title) * SMALL_LINE) / 2 + 2
                page.note(left - 2 * GAP, below, f"even map: {even:.0f} %", ha="right")
            _draw_row(page, left, y, [steps[step][place] for step in order], number)
            y += ROW
        top += height
    return page.figure


def _truth(maps: ConceptMaps, number: int) -> np.ndarray | None:
    truth = maps.truths[number] if maps.truths else None
    return None if truth is None else truth.mask


def _draw_row(page: Page, left: float, top: float, through: Sequence[ConceptMaps], number: int) -> None:
    grids = [maps.context[number] for maps in through]
    maximum = max(grid.max() for grid in grids if grid is not None)
    for column, (maps, grid) in enumerate(zip(through, grids, strict=True)):
        if grid is None:  # never where the processor is the same
            continue
        drawn, label, mask = heat_overlay(maps.image, grid, maximum), "", _truth(maps, number)
        if mask is not None:
            drawn = outlined(drawn, mask, OUTLINE)
            label = f"{ground(grid, mask)['mass']:.0f} %"
        page.tile(left + column * (TILE + GAP), top, drawn, label)
