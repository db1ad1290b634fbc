"""Types of mistakes of retrievers compared with chance, and recall by group of queries."""

from collections.abc import Mapping, Sequence
from typing import Any

from contextcir.visualization.page import INK, RUNS, SMALL, TARGET, Axes, Figure, Line2D, chart, interval_errors

Profile = Mapping[str, Mapping[str, Any]]  # from contextcir.evaluation.profile.error_profile


def profile_figure(profiles: Mapping[str, Profile]) -> Figure:
    """
    Draw error profiles of retrievers: top-1 results by type, mistakes above the first target, and recall@1 by group.

    A tick across a bar is the value of a random ranking. A retriever with a longer bar makes this mistake more often
    than chance.

    Args:
        profiles (`Mapping[str, Mapping]`): Name of a retriever in the legend -> its profile from
            [`~contextcir.evaluation.profile.error_profile`]; at most five.

    Raises:
        `ValueError`: There is no profile, or more than five.
    """
    if not 1 <= len(profiles) <= len(RUNS):
        raise ValueError(f"Got {len(profiles)} profiles to draw, expected 1 to {len(RUNS)}.")
    first = next(iter(profiles.values()))
    kinds = list(first["all"]["kinds"])
    groups = [name for name in first if name != "all"]
    with chart(12, 1.6 + max(len(kinds), len(groups)) * (0.16 + 0.15 * len(profiles))) as figure:
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1))
        mistakes = [kind for kind in kinds if kind not in ("target", "unrelated")]
        _bars_by_kind(left, "Top-1 results by type, % of queries", profiles, kinds, "rank1")
        _bars_by_kind(middle, "Mistakes above the first target per query", profiles, mistakes, "above")
        _recall_by_group(right, profiles, groups)
        handles = [Line2D([], [], color=RUNS[place], linewidth=6) for place in range(len(profiles))]
        handles.append(Line2D([], [], color=INK, linewidth=0, marker="|", markersize=9, markeredgewidth=1.6))
        figure.legend(handles, [*profiles, "random ranking"], loc="outside upper left", ncols=3)
    return figure


def _rows(axes: Axes, title: str, labels: Sequence[str]) -> None:
    axes.set_title(title)
    axes.set_yticks(range(len(labels)), [label.replace("_", " ") for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(labelsize=SMALL, length=0, axis="y", labelcolor=INK)
    axes.grid(axis="x")


def _positions(place: int, count: int, num_rows: int) -> tuple[list[float], float]:
    """Return the vertical positions of one of `count` retrievers in all rows, and the space that it has in each."""
    width = 0.74 / count
    return [row + width * (place - (count - 1) / 2) for row in range(num_rows)], width


def _bars_by_kind(axes: Axes, title: str, profiles: Mapping[str, Profile], kinds: Sequence[str], key: str) -> None:
    _rows(axes, title, kinds)
    for place, profile in enumerate(profiles.values()):
        values = [profile["all"]["kinds"][kind][key] for kind in kinds]
        rows, width = _positions(place, len(profiles), len(kinds))
        bars = axes.barh(rows, values, width * 0.9, color=RUNS[place])
        on_white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # keeps numbers legible over the ticks
        axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=4, fontsize=7.5, color=INK, bbox=on_white)
    everything = next(iter(profiles.values()))["all"]["kinds"]
    chances, lines = [everything[kind][f"{key}_chance"] for kind in kinds], range(len(kinds))
    axes.vlines(chances, [line - 0.42 for line in lines], [line + 0.42 for line in lines], color=INK, linewidth=1.6)
    axes.set_xlim(0, 1.12 * axes.get_xlim()[1])
    if "target" in kinds:
        axes.get_yticklabels()[kinds.index("target")].set_color(TARGET)


def _recall_by_group(axes: Axes, profiles: Mapping[str, Profile], groups: Sequence[str]) -> None:
    first = next(iter(profiles.values()))
    names = [group.removeprefix("split:").replace("edits:1", "1 edit").replace("edits:", "") for group in groups]
    names = [f"{name} edits" if name.isdigit() else name for name in names]
    labels = [f"{name}  (n = {first[group]['num_queries']})" for name, group in zip(names, groups, strict=True)]
    _rows(axes, "Recall@1, % (bars: 95 % intervals)", labels)
    for place, profile in enumerate(profiles.values()):
        values = [profile[group]["recall@1"] for group in groups]
        errors = interval_errors(values, [profile[group]["interval"] for group in groups])
        rows, _ = _positions(place, len(profiles), len(groups))
        axes.errorbar(values, rows, xerr=errors, color=RUNS[place], fmt="o", markersize=4, capsize=2, linewidth=1.2)
    axes.set_xlim(left=0)
