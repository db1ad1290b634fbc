"""Figures of experiments: training variants by seed, ImageScope by error rate, and indexes by recall and time."""

from collections.abc import Mapping, Sequence
from typing import Any

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


def recall_by_latency(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """
    Draw the recall of indexes against the time of a query: a curve for each index, from its fastest search setting to
    its most exact one. The upper left is best.

    Args:
        rows (`Sequence[Mapping]`): As `research.bench.engines` writes them: `engine`, `settings`, `rows`, `recall@10`
            in [0, 1] and `ms_per_query`.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        fixed = {name: row["settings"].get(name) for name in ("bits", "partitions")}
        how = ", ".join(f"{value} {name}" for name, value in fixed.items() if value is not None)
        name = f"{row['engine']}{f' ({how})' if how else ''}, {row['rows']:,} vectors"
        curves.setdefault(name, []).append((row["ms_per_query"], row["recall@10"]))
    with chart(8.2, 3.6) as figure:
        axes = figure.add_subplot()
        for place, (name, points) in enumerate(curves.items()):
            color, marker = RUNS[place % len(RUNS)], "os"[place // len(RUNS) % 2]
            axes.plot(*zip(*sorted(points), strict=True), color=color, marker=marker, markersize=5, label=name)
        axes.set_xscale("log")
        ticks = [
            tick for tick in (1, 2, 5, 10, 20, 50, 100, 200) if tick <= 1.5 * max(row["ms_per_query"] for row in rows)
        ]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("milliseconds a query, one thread", fontsize=SMALL, color=GREY)
        axes.set_ylabel("recall@10 of the exact search", fontsize=SMALL, color=GREY)
        axes.grid()
        figure.legend(loc="outside right upper", fontsize=8)
    return figure
