"""The curves of training logs, a panel for each loss part and metric."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from contextcir.visualization.charts import chart_style, new_figure
from contextcir.visualization.page import GREY, RUNS, SMALL, TEXT, Figure, Line2D, MaxNLocator, wrap


def read_history(run: str | os.PathLike) -> list[dict]:
    """
    Read the log of a training run.

    Args:
        run (`str` or `os.PathLike`): Output folder of a run, with `trainer_state.json`.

    Returns:
        `list[dict]`: What was logged, with the `step` of each entry.

    Raises:
        `ValueError`: The file is missing or damaged.
    """
    path = Path(run, "trainer_state.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))["log_history"]
    except FileNotFoundError as error:
        raise ValueError(f"There is no {path}. Give the output folder of a finished run.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the state of a trainer ({type(error).__name__}: {error}).") from error


# Of the log, neither a loss nor a metric.
_BOOKKEEPING = re.compile(r"train_.*|total_flos|epoch|step|(.*_)?(runtime|per_second|texts|phrases|tokens_seen)")


def training_curves(histories: Mapping[str, Sequence[Mapping]], *, columns: int = 5) -> Figure:
    """
    Draw a panel for each loss part and each metric, with the curves of all runs.

    What evaluation measured (`eval_loss`) shares the panel of what training logged (`loss`).

    Args:
        histories (`Mapping[str, Sequence[Mapping]]`): The log of each run, by its name in the legend.
        columns (`int`, *optional*, defaults to 5): Panels side by side.

    Returns:
        `matplotlib.figure.Figure`: One axes for each panel, titled with the name that was logged.

    Raises:
        `ValueError`: There is nothing to draw.
    """
    panels: dict[str, dict[tuple[str, bool], list]] = {}  # name -> (run, of evaluation?) -> (step, value) pairs
    for run, history in histories.items():
        for entry in history:
            for key, value in entry.items():
                if isinstance(value, int | float) and not _BOOKKEEPING.fullmatch(key.removeprefix("eval_")):
                    curves = panels.setdefault(key.removeprefix("eval_"), {})
                    curves.setdefault((run, key.startswith("eval_")), []).append((entry["step"], value))
    if not panels:
        raise ValueError(f"Nothing to draw: no loss and no metric in the log of {', '.join(histories) or 'no run'}.")

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    colors = {run: RUNS[place % len(RUNS)] for place, run in enumerate(histories)}
    labels = {run: "\n".join(wrap(run, 250)) for run in histories}
    handles = [Line2D([], [], color=color, label=labels[run]) for run, color in colors.items()]
    if len({evaluated for curves in panels.values() for _, evaluated in curves}) == 2:
        handles.append(Line2D([], [], color=GREY, label="training"))
        handles.append(Line2D([], [], color=GREY, label="evaluation", linestyle="--", marker="o", markersize=3))
    legend_lines = -(-len(handles) // max(1, columns - 1)) * max(label.count("\n") + 1 for label in labels.values())
    height = 1.9 * rows + 0.25 + 0.22 * legend_lines
    with chart_style():
        figure = new_figure(2.6 * columns, height)
        for place, name in enumerate(sorted(panels, key=_panel_order)):
            axes = figure.add_subplot(rows, columns, place + 1, sharex=figure.axes[0] if figure.axes else None)
            for (run, evaluated), points in panels[name].items():
                style = {"linestyle": "--"} if evaluated else {}
                style |= {"marker": "o", "markersize": 3} if evaluated or len(points) == 1 else {}
                axes.plot(*zip(*points, strict=True), color=colors[run], linewidth=1.3, **style)
            axes.set_title(name)
            axes.grid()
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter("{x:g}")
        legend = {"ncols": max(1, columns - 1), "fontsize": TEXT}
        figure.legend(handles=handles, loc="outside upper left", **legend)
        figure.supxlabel("step", fontsize=SMALL, color=GREY)
    return figure


def _panel_order(name: str) -> tuple:
    """Losses, metrics, the rest; recall@5 before recall@10."""
    group = 0 if name.startswith("loss") else 1 if "@" in name else 2
    return group, [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
