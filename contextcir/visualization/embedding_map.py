"""A map of the embedding space: where queries lead from their reference images, and where their targets are."""

from collections.abc import Sequence

import numpy as np

from contextcir.visualization.page import FAINT, GREY, REFERENCE, RUNS, SMALL, TARGET, Figure, Line2D, chart, wrap

ARROWS = (*RUNS, "#b8006e", "#8c510a", "#01665e")


def embedding_map(
    gallery: np.ndarray, references: np.ndarray, queries: np.ndarray, targets: np.ndarray, texts: Sequence[str]
) -> Figure:
    """
    Draw the two main directions of a gallery, and for some queries an arrow from the reference image to the query,
    beside a dotted line from there to the target. A short dotted line is a good query.

    Args:
        gallery (`numpy.ndarray` of shape `(gallery_size, dim)`): Embeddings of unit length; the directions are their
            first two principal components.
        references (`numpy.ndarray` of shape `(num_queries, dim)`): Embeddings of the reference images.
        queries (`numpy.ndarray` of shape `(num_queries, dim)`): Embeddings of the queries.
        targets (`numpy.ndarray` of shape `(num_queries, dim)`): Embeddings of the targets.
        texts (`Sequence[str]`): The modification texts, for the legend.

    Raises:
        `ValueError`: There are fewer than three images or no query, or the numbers of queries differ.
    """
    counts = {len(some) for some in (references, queries, targets, texts)}
    if len(gallery) < 3 or len(counts) != 1 or not len(texts):
        raise ValueError(
            f"Got {len(gallery)} images and {sorted(counts)} queries, expected at least 3 and the same number of each."
        )
    center = gallery.mean(axis=0)
    values, axes_of = np.linalg.eigh(np.cov((gallery - center).T))
    plane = axes_of[:, ::-1][:, :2]  # (dim, 2), the largest first
    share = values[::-1][:2].sum() / values.sum()
    points, starts, ends, goals = ((some - center) @ plane for some in (gallery, references, queries, targets))
    title = f"The gallery in two of its dimensions, which hold {100 * share:.0f} % of its variance"
    with chart(9.2, 4.4, title) as figure:
        axes = figure.add_subplot()
        axes.scatter(points[:, 0], points[:, 1], s=6, color="#c9c9c9", linewidths=0)
        for place, (start, end, goal) in enumerate(zip(starts, ends, goals, strict=True)):
            color = ARROWS[place % len(ARROWS)]
            axes.plot(*np.stack([end, goal]).T, color=color, linestyle=":", linewidth=1.2)
            axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.8})
            axes.plot(*start, "o", color="white", markeredgecolor=REFERENCE, markersize=7, markeredgewidth=1.6)
            axes.plot(*goal, "*", color=TARGET, markersize=12, markeredgecolor="white", markeredgewidth=0.6)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color(FAINT)
        axes.set_aspect("equal", adjustable="datalim")
        handles = [Line2D([], [], color=ARROWS[place % len(ARROWS)], linewidth=1.8) for place in range(len(texts))]
        handles += [
            Line2D([], [], color="white", marker="o", markeredgecolor=REFERENCE, markersize=7, linewidth=0),
            Line2D([], [], color=TARGET, marker="*", markersize=11, linewidth=0),
            Line2D([], [], color=GREY, linestyle=":"),
        ]
        names = ["\n".join(wrap(text, 250, SMALL, 2)) for text in texts]
        names += ["reference image", "target", "from query to target"]
        figure.legend(handles, names, loc="outside right upper", fontsize=8)
    return figure
