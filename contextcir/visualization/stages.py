"""Recall after each of ImageScope's stages as one of its roles errs more and more: a panel for each role."""

from collections.abc import Mapping

from contextcir.visualization.charts import chart_style, new_figure
from contextcir.visualization.page import GREY, RUNS, SMALL, Figure

Point = tuple[float, float, float]  # a metric in percent, and its interval


def stages_figure(roles: Mapping[str, Mapping[float, Mapping[str, Point]]], metric: str) -> Figure:
    """
    Draw a curve for each stage, in a panel for each role. Bands are the intervals of the metric.

    Args:
        roles (`Mapping[str, Mapping[float, Mapping[str, Point]]]`): Role -> its error rate in [0, 1] -> stage -> the
            metric in percent with the ends of its interval. The stages are the same everywhere.
        metric (`str`): Its name.

    Returns:
        `matplotlib.figure.Figure`: One axes for each role.
    """
    with chart_style():
        figure = new_figure(0.6 + 2.5 * len(roles), 3.1)
        for place, (role, by_rate) in enumerate(roles.items()):
            axes = figure.add_subplot(1, len(roles), place + 1, sharey=figure.axes[0] if place else None)
            rates = sorted(by_rate)
            for color, stage in zip(RUNS, by_rate[rates[0]], strict=False):
                values, low, high = zip(*(by_rate[rate][stage] for rate in rates), strict=True)
                shown = [100 * rate for rate in rates]
                axes.plot(shown, values, color=color, marker="o", markersize=4, linewidth=1.4, label=stage)
                axes.fill_between(shown, low, high, color=color, alpha=0.12, linewidth=0)
            axes.set_title(role)
            axes.set_xticks(shown)
            axes.grid()
            axes.tick_params(labelleft=place == 0)
            axes.set_ylim(0, 100)
        figure.axes[0].set_ylabel(f"{metric}, %", color=GREY)
        figure.supxlabel("errors of this role, % (the other roles make none)", fontsize=SMALL, color=GREY)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure
