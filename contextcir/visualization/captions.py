"""What a run of caption generation gave, a picture each: lengths, operations, noun phrases, failures and cost."""

from collections.abc import Mapping
from typing import Any

from contextcir.visualization.page import (
    DPI,
    FAINT,
    FONT,
    GREY,
    INK,
    RUNS,
    SMALL,
    TEXT,
    Figure,
    FigureCanvasAgg,
    MaxNLocator,
    rc_context,
)


def caption_figures(report: Mapping[str, Any]) -> dict[str, Figure]:
    """
    Draw a report.

    Args:
        report (`Mapping[str, Any]`): What `generate_captions.py` writes into `report.json`.

    Returns:
        `dict[str, matplotlib.figure.Figure]`: By name: `words`, `noun_phrases`, `operations`, `failures` and `cost`;
        of what there is nothing to draw, there is no figure.
    """
    spent = {entry["stage"]: entry["usd"] for entry in report["requests"]["stages"]}
    tokens = {
        entry["stage"]: entry["prompt_tokens"] + entry["completion_tokens"] for entry in report["requests"]["stages"]
    }
    lost = {name.replace("_", " "): count for name, count in report["failures"].items()}
    lost |= {f"caption: {name.replace('_', ' ')}": count for name, count in report["captions"]["dropped"].items()}
    drawn = {
        "words": (_histogram, "Triplets by words of the text", report["triplets"]["words"]),
        "noun_phrases": (_histogram, "Triplets by noun phrases of the text", report["triplets"]["noun_phrases"]),
        "operations": (_bars, "Captions by operation", report["operations"]),
        "failures": (_bars, "Pairs that failed and captions that were dropped", lost),
        "cost": (_bars, *(("Cost by stage, USD", spent) if any(spent.values()) else ("Tokens by stage", tokens))),
    }
    with rc_context({"font.family": FONT, "font.size": SMALL, "text.parse_math": False}):
        return {name: draw(title, values) for name, (draw, title, values) in drawn.items() if values}


def _axes(title: str, height: float = 2.6):
    figure = Figure(figsize=(5.2, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    figure.suptitle(title, x=0.01, ha="left", fontsize=TEXT, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelsize=8)
    return figure, axes


def _histogram(title: str, counts: Mapping[str, int]) -> Figure:
    figure, axes = _axes(title)
    axes.bar([int(size) for size in counts], counts.values(), color=RUNS[0], width=0.9)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(color=FAINT, linewidth=0.6, axis="y")
    axes.set_axisbelow(True)
    return figure


def _bars(title: str, values: Mapping[str, float]) -> Figure:
    figure, axes = _axes(title, height=0.8 + 0.3 * len(values))
    places = range(len(values))
    axes.barh(places, values.values(), color=RUNS[0], height=0.62)
    axes.set_yticks(places, values.keys())
    axes.invert_yaxis()
    axes.set_xlim(0, max(values.values()) * 1.2 or 1)
    for place, value in zip(places, values.values(), strict=True):
        axes.text(
            value, place, f" {value:,.2f}" if isinstance(value, float) else f" {value:,}", va="center", fontsize=8
        )
    return figure
