"""Score margins of targets against hard negatives, and the ranks that a text finds alone and with its image."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from contextcir.visualization.page import GREY, INK, REFERENCE, RUNS, SMALL, TARGET, Figure, chart


def margin_figure(margins: Mapping[str, np.ndarray]) -> Figure:
    """
    Draw how far targets score above hard negatives: a row for each kind, with the middle half of its queries as a bar,
    nine tenths of them as a line, and the share of queries whose target is above.

    Args:
        margins (`Mapping[str, numpy.ndarray]`): As from [`~contextcir.evaluation.separation.score_margins`].

    Raises:
        `ValueError`: A kind has no query.
    """
    if empty := [kind for kind, values in margins.items() if not len(values)]:
        raise ValueError(f"{empty[0]}: got 0 margins to draw, expected at least 1.")
    with chart(8.4, 1.1 + 0.42 * len(margins), "Score of the best target less that of the best …") as figure:
        axes = figure.add_subplot()
        for row, values in enumerate(margins.values()):
            low, first, middle, third, high = np.percentile(values, (5, 25, 50, 75, 95))
            color = TARGET if middle > 0 else REFERENCE
            axes.hlines(row, low, high, color=GREY, linewidth=1.2)
            axes.barh(row, third - first, left=first, height=0.5, color=color, alpha=0.75)
            axes.vlines(middle, row - 0.25, row + 0.25, color=INK, linewidth=1.8)
        axes.axvline(0, color=INK, linewidth=1)
        labels = [f"{kind.replace('_', ' ')}  (n = {len(values)})" for kind, values in margins.items()]
        axes.set_yticks(range(len(margins)), labels)
        axes.tick_params(labelsize=SMALL, length=0, axis="y", labelcolor=INK)
        axes.invert_yaxis()
        axes.grid(axis="x")
        right = axes.secondary_yaxis("right")
        right.set_yticks(
            range(len(margins)), [f"{100 * (values > 0).mean():.0f} % above" for values in margins.values()]
        )
        right.tick_params(labelsize=SMALL, length=0, labelcolor=INK)
        right.spines["right"].set_visible(False)
        axes.set_xlabel("difference of cosines: right of 0 the target wins", fontsize=SMALL, color=GREY)
    return figure


def rank_figure(text: np.ndarray, composed: np.ndarray, gallery_size: int) -> Figure:
    """
    Draw a point for each query: the rank of its target by the text alone, and by image and text. Below the diagonal
    the image helps.

    Args:
        text (`numpy.ndarray` of shape `(num_queries,)`): Ranks by the text alone, from 1.
        composed (`numpy.ndarray` of shape `(num_queries,)`): Ranks by image and text.
        gallery_size (`int`): The worst rank.

    Raises:
        `ValueError`: The numbers of queries differ, or are 0.
    """
    if len(text) != len(composed) or not len(text):
        raise ValueError(f"Got {len(text)} and {len(composed)} ranks, expected the same number, at least 1.")
    with chart(5.6, 5.2, "Rank of the target: what the reference image adds") as figure:
        axes = figure.add_subplot()
        spread = np.random.default_rng(0).uniform(0.94, 1.06, (2, len(text)))  # equal ranks side by side
        axes.scatter(text * spread[0], composed * spread[1], s=9, color=RUNS[0], alpha=0.45, linewidths=0)
        axes.plot([1, gallery_size], [1, gallery_size], color=INK, linewidth=1)
        limits = (0.85, 1.2 * gallery_size)
        axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
        axes.set_xlabel("by the text alone", color=INK)
        axes.set_ylabel("by image and text", color=INK)
        axes.grid()
        better, worse = (composed < text).mean(), (composed > text).mean()
        place: dict[str, Any] = {"transform": axes.transAxes, "fontsize": SMALL, "color": INK}
        axes.text(0.97, 0.05, f"better with the image: {100 * better:.0f} %", ha="right", **place)
        axes.text(0.03, 0.95, f"worse: {100 * worse:.0f} %", va="top", **place)
    return figure
