"""The error profile of a retriever at a glance: which mistakes it makes more than chance would, and where it fails."""

from collections.abc import Mapping, Sequence
from typing import Any

from contextcir.visualization.charts import chart_style, new_figure
from contextcir.visualization.page import INK, RUNS, SMALL, TARGET, Figure, Line2D


def profile_figure(profiles: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """
    Draw the error profiles of some retrievers: what stands at rank 1, what stands above the first target, and recall@1
    by split and by number of edits.

    A tick across a bar is what a random ranking does. Where a bar is longer, the retriever prefers that mistake to
    chance.

    Args:
        profiles (`Mapping[str, Mapping]`): What [`~contextcir.evaluation.profile.error_profile`] gave for each
            retriever, by its name in the legend: five at most.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        `ValueError`: There is no profile, or more than five.
    """
    if not 1 <= len(profiles) <= len(RUNS):
        raise ValueError(f"Got {len(profiles)} profiles to draw, expected 1 to {len(RUNS)}.")
    first = next(iter(profiles.values()))
    kinds = list(first["all"]["kinds"])
    groups = [name for name in first if name != "all"]
    height = 1.6 + max(len(kinds), len(groups)) * (0.16 + 0.15 * len(profiles))
    with chart_style():
        figure = new_figure(12, height)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1))
        mistakes = [kind for kind in kinds if kind not in ("target", "unrelated")]
        _bars_by_kind(left, "At rank 1, % of queries", profiles, kinds, "rank1")
        _bars_by_kind(middle, "Mistakes above the first target, images", profiles, mistakes, "above")
        _recall_by_group(right, profiles, groups)
        handles = [Line2D([], [], color=RUNS[place], linewidth=6) for place in range(len(profiles))]
        handles.append(Line2D([], [], color=INK, linewidth=0, marker="|", markersize=9, markeredgewidth=1.6))
        figure.legend(handles, [*profiles, "random ranking"], loc="outside upper left", ncols=3)
    return figure


def _rows(axes, title: str, labels: Sequence[str]) -> None:
    axes.set_title(title)
    axes.set_yticks(range(len(labels)), [label.replace("_", " ") for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(labelsize=SMALL, length=0, axis="y", labelcolor=INK)
    axes.grid(axis="x")


def _offsets(count: int) -> list[float]:
    """Where the bars of one row stand beside each other, and their width as the last."""
    width = 0.74 / count
    return [width * (place - (count - 1) / 2) for place in range(count)] + [width]


def _bars_by_kind(axes, title: str, profiles, kinds: Sequence[str], key: str) -> None:
    _rows(axes, title, kinds)
    *offsets, width = _offsets(len(profiles))
    for place, (offset, profile) in enumerate(zip(offsets, profiles.values(), strict=True)):
        values = [profile["all"]["kinds"][kind][key] for kind in kinds]
        rows = [row + offset for row in range(len(kinds))]
        bars = axes.barh(rows, values, width * 0.9, color=RUNS[place])
        on_white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # or the tick of chance crosses a number
        axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=4, fontsize=7.5, color=INK, bbox=on_white)
    chances = [next(iter(profiles.values()))["all"]["kinds"][kind][f"{key}_chance"] for kind in kinds]
    axes.vlines(chances, [row - 0.42 for row in range(len(kinds))], [row + 0.42 for row in range(len(kinds))],
                color=INK, linewidth=1.6)  # fmt: skip
    axes.set_xlim(0, 1.12 * axes.get_xlim()[1])
    if "target" in kinds:
        axes.get_yticklabels()[kinds.index("target")].set_color(TARGET)


def _recall_by_group(axes, profiles, groups: Sequence[str]) -> None:
    first = next(iter(profiles.values()))
    names = [group.removeprefix("split:").replace("edits:1", "1 edit").replace("edits:", "") for group in groups]
    names = [f"{name} edits" if name.isdigit() else name for name in names]
    labels = [f"{name}  (n = {first[group]['num_queries']})" for name, group in zip(names, groups, strict=True)]
    _rows(axes, "recall@1, %, with 95 % intervals", labels)
    *offsets, _ = _offsets(len(profiles))
    for place, (offset, profile) in enumerate(zip(offsets, profiles.values(), strict=True)):
        values = [profile[group]["recall@1"] for group in groups]
        sides = [[max(0.0, abs(value - profile[group]["interval"][side])) for value, group in zip(values, groups,
                 strict=True)] for side in (0, 1)]  # fmt: skip
        rows = [row + offset for row in range(len(groups))]
        axes.errorbar(values, rows, xerr=sides, color=RUNS[place], fmt="o", markersize=4, capsize=2, linewidth=1.2)
    axes.set_xlim(left=0)
