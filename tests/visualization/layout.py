"""Pixels and texts of figures, and a check that nothing overlaps."""

from itertools import combinations

import numpy as np

LONG_TEXTS = ["word " * 300, "x" * 700, "short", "costs $5, or $6 ^2_3 \\frac{1}{2}", "two\nlines\tand  spaces"]


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def check_layout(figure):
    """All texts are inside of the figure, and overlap neither each other nor images."""
    renderer = figure.canvas.get_renderer()
    extents = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    images = [image.get_window_extent(renderer) for image in figure.axes[0].images]
    for extent in extents:
        assert extent.x0 >= 0 and extent.y0 >= 0
        assert extent.x1 <= figure.bbox.width and extent.y1 <= figure.bbox.height
        assert not any(extent.overlaps(image) for image in images)
    assert not any(one.overlaps(other) for one, other in combinations(extents, 2))
