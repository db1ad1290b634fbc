"""Variants of a training side by side: each seed a dot, the mean a line, so that luck and effect can be told apart."""

from collections.abc import Mapping, Sequence

import numpy as np

from contextcir.visualization.charts import chart_style, new_figure
from contextcir.visualization.page import GREY, INK, RUNS, Figure


def seed_dots(results: Mapping[str, Sequence[Mapping[str, float]]], metrics: Sequence[str]) -> Figure:
    """
    Draw a panel for each metric with a row for each variant.

    Args:
        results (`Mapping[str, Sequence[Mapping[str, float]]]`): Variant -> the metrics of each of its runs; there may
            be none yet. The mean of the first is drawn through all rows.
        metrics (`Sequence[str]`): Which to draw, in percent.

    Returns:
        `matplotlib.figure.Figure`: One axes for each metric.
    """
    names = list(results)
    with chart_style():
        figure = new_figure(1.6 + 2.3 * len(metrics), 0.8 + 0.32 * len(names))
        for place, metric in enumerate(metrics):
            axes = figure.add_subplot(1, len(metrics), place + 1, sharey=figure.axes[0] if place else None)
            for row, name in enumerate(names):
                values = [found[metric] for found in results[name]]
                color = INK if row == 0 else RUNS[0]
                axes.plot(values, [row] * len(values), "o", color=color, markersize=4, alpha=0.7, linestyle="none")
                if values:
                    axes.plot([np.mean(values)] * 2, [row - 0.3, row + 0.3], color=color, linewidth=1.5)
                if values and row == 0:
                    axes.axvline(np.mean(values), color=GREY, linewidth=0.8, linestyle=":")
            axes.set_title(metric)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="y")
            axes.tick_params(length=0, labelleft=place == 0)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
    return figure
