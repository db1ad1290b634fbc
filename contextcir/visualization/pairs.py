"""Pairs of similar images: the nearest and the farthest, to choose the bounds of what counts as similar."""

from collections.abc import Sequence

from contextcir.data.images import load_image
from contextcir.data.pairs import Pair
from contextcir.visualization.page import GAP, GREY, LINE, MARGIN, TILE, Figure, Page, wrap

COLUMNS = 5
ROW = TILE + 2 * LINE + GAP  # a pair, and its similarity below
PAIR = 2 * TILE + 4


def pairs_figure(pairs: Sequence[Pair], *, count: int = 10) -> Figure:
    """
    Draw the `count` pairs of highest and of lowest similarity, each with its number. Pairs are in both parts if there
    are fewer than twice as many.

    Args:
        pairs (`Sequence[Pair]`): With a `similarity`.
        count (`int`, *optional*, defaults to 10): Pairs of each part.

    Raises:
        `ImageError`: An image cannot be read.
        `ValueError`: There are no pairs, or one has no similarity.
    """
    if not pairs or any(pair.similarity is None for pair in pairs):
        raise ValueError(f"Got {len(pairs)} pairs, expected at least one, and all with a similarity.")
    ordered = sorted(pairs, key=lambda pair: -(pair.similarity or 0))
    parts = {
        f"The nearest of {len(pairs):,} pairs, nearest first. If these are copies, lower --high": ordered[:count],
        "The farthest, farthest first. If these have nothing in common, raise --low": ordered[::-1][:count],
    }
    columns = min(COLUMNS, len(pairs))
    width = max(2 * MARGIN + columns * (PAIR + 2 * GAP) - 2 * GAP, 480)
    rows = -(-min(count, len(pairs)) // columns)
    titles = {title: wrap(title, width - 2 * MARGIN) for title in parts}
    page = Page(width, MARGIN + sum(LINE * len(lines) + GAP + rows * ROW for lines in titles.values()))
    top = MARGIN
    for title, shown in parts.items():
        page.text(MARGIN, top, titles[title], color=GREY)
        top += LINE * len(titles[title]) + GAP
        for place, pair in enumerate(shown):
            row, column = divmod(place, columns)
            left, y = MARGIN + column * (PAIR + 2 * GAP), top + row * ROW
            page.tile(left, y, load_image(pair.reference_image))
            page.tile(left + TILE + 4, y, load_image(pair.target_image))
            page.note(left + PAIR / 2, y + TILE + 7, f"{pair.similarity:.3f}", ha="center")
        top += rows * ROW
    return page.figure
