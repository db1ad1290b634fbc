"""Curves of training logs: a panel for each part of the loss and each metric."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contextcir.visualization.page import GREY, RUNS, SMALL, TEXT, Figure, Line2D, MaxNLocator, chart, wrap


def read_history(run: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """
    Read the log of a training run.

    Args:
        run (`str` or `os.PathLike`): Output folder of a run, with `trainer_state.json`.

    Returns:
        `list[dict]`: The logged entries, each with its `step`.

    Raises:
        `ValueError`: The file is missing or damaged.
    """
    path = Path(run, "trainer_state.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))["log_history"]
    except FileNotFoundError as error:
        raise ValueError(f"There is no {path}. Give the output folder of a finished run.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a valid trainer state ({type(error).__name__}: {error}).") from error


# Logged values that are neither losses nor metrics.
_BOOKKEEPING = re.compile(r"train_.*|total_flos|epoch|step|(.*_)?(runtime|per_second|texts|phrases|tokens_seen)")


def training_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], *, columns: int = 5) -> Figure:
    """
    Draw a panel for each part of the loss and each metric, with the curves of all runs.

    Training and evaluation share a panel: `eval_loss` is drawn in that of `loss`.

    Args:
        histories (`Mapping[str, Sequence[Mapping]]`): Name of a run in the legend -> its log.
        columns (`int`, *optional*, defaults to 5): Number of panels per row.

    Returns:
        `matplotlib.figure.Figure`: One axes for each panel, titled with the logged name.

    Raises:
        `ValueError`: The logs hold no loss and no metric.
    """
    panels: dict[str, dict[tuple[str, bool], list[tuple[int, float]]]] = {}  # name -> (run, is eval) -> (step, value)
    for run, history in histories.items():
        for entry in history:
            for key, value in entry.items():
                name = key.removeprefix("eval_")
                if isinstance(value, int | float) and not _BOOKKEEPING.fullmatch(name):
                    curve = panels.setdefault(name, {}).setdefault((run, name != key), [])
                    curve.append((entry["step"], value))
    if not panels:
        raise ValueError(f"Got logs of {', '.join(histories) or 'no run'}, expected at least one loss or metric.")

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    legend_columns = max(1, columns - 1)
    colors = {run: RUNS[place % len(RUNS)] for place, run in enumerate(histories)}
    labels = {run: "\n".join(wrap(run, 250)) for run in histories}
    handles = [Line2D([], [], color=color, label=labels[run]) for run, color in colors.items()]
    if len({is_eval for curves in panels.values() for _, is_eval in curves}) == 2:
        handles.append(Line2D([], [], color=GREY, label="training"))
        handles.append(Line2D([], [], color=GREY, label="evaluation", linestyle="--", marker="o", markersize=3))
    legend_lines = -(-len(handles) // legend_columns) * max(label.count("\n") + 1 for label in labels.values())
    with chart(2.6 * columns, 1.9 * rows + 0.25 + 0.22 * legend_lines) as figure:
        for place, name in enumerate(sorted(panels, key=_panel_order)):
            axes = figure.add_subplot(rows, columns, place + 1, sharex=figure.axes[0] if figure.axes else None)
            for (run, is_eval), points in panels[name].items():
                marker = "o" if is_eval or len(points) == 1 else None
                style: dict[str, Any] = {"linestyle": "--" if is_eval else "-", "marker": marker, "markersize": 3}
                axes.plot(*zip(*points, strict=True), color=colors[run], linewidth=1.3, **style)
            axes.set_title(name)
            axes.grid()
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter("{x:g}")
        figure.legend(handles=handles, loc="outside upper left", ncols=legend_columns, fontsize=TEXT)
        figure.supxlabel("step", fontsize=SMALL, color=GREY)
    return figure


def _panel_order(name: str) -> tuple[int, list[tuple[int, str]]]:
    """Sort losses before metrics before the rest, and recall@5 before recall@10."""
    group = 0 if name.startswith("loss") else 1 if "@" in name else 2
    return group, [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
