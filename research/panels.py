"""Figures of experiments, in panels side by side: training variants by seed, and ImageScope by error rate."""

from collections.abc import Mapping, Sequence

import numpy as np

from contextcir.visualization.page import GREY, INK, RUNS, SMALL, Figure, chart

Point = tuple[float, float, float]  # a metric in percent, and the ends of its interval


def seed_dots(results: Mapping[str, Sequence[Mapping[str, float]]], metrics: Sequence[str]) -> Figure:
    """
    Draw the results of training variants: a dot for each seed, and a line at their mean.

    Args:
        results (`Mapping[str, Sequence[Mapping[str, float]]]`): Variant -> the metrics of each of its runs, perhaps
            none yet. A dotted line marks the mean of the first variant.
        metrics (`Sequence[str]`): The metrics to draw, in percent.

    Returns:
        `matplotlib.figure.Figure`: One axes for each metric, with a row for each variant.
    """
    names = list(results)
    with chart(1.6 + 2.3 * len(metrics), 0.8 + 0.32 * len(names)) as figure:
        for metric, axes in zip(metrics, figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0], strict=True):
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
            axes.tick_params(length=0)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
    return figure


def stages_figure(roles: Mapping[str, Mapping[float, Mapping[str, Point]]], metric: str) -> Figure:
    """
    Draw a metric after each stage of ImageScope by the error rate of one role. Bands are intervals.

    Args:
        roles (`Mapping[str, Mapping[float, Mapping[str, Point]]]`): Role -> error rate in [0, 1] -> stage -> the
            metric in percent with the ends of its interval. All have the same stages.
        metric (`str`): Name of the metric.

    Returns:
        `matplotlib.figure.Figure`: One axes for each role, with a curve for each stage.
    """
    with chart(0.6 + 2.5 * len(roles), 3.1) as figure:
        panels = figure.subplots(1, len(roles), sharey=True, squeeze=False)[0]
        for axes, (role, by_rate) in zip(panels, roles.items(), strict=True):
            rates = sorted(by_rate)
            percents = [100 * rate for rate in rates]
            for color, stage in zip(RUNS, by_rate[rates[0]], strict=False):
                values, low, high = zip(*(by_rate[rate][stage] for rate in rates), strict=True)
                axes.plot(percents, values, color=color, marker="o", markersize=4, linewidth=1.4, label=stage)
                axes.fill_between(percents, low, high, color=color, alpha=0.12, linewidth=0)
            axes.set_title(role)
            axes.set_xticks(percents)
            axes.grid()
            axes.set_ylim(0, 100)
        panels[0].set_ylabel(f"{metric}, %", color=GREY)
        figure.supxlabel("error rate of this role, % (other roles: 0 %)", fontsize=SMALL, color=GREY)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure
