"""Figures of a run of caption generation: lengths, operations, noun phrases, failures and cost."""

from collections.abc import Mapping
from typing import Any

from contextcir.visualization.page import RUNS, Figure, MaxNLocator, bars, chart


def caption_figures(report: Mapping[str, Any]) -> dict[str, Figure]:
    """
    Draw a report.

    Args:
        report (`Mapping[str, Any]`): The content of `report.json` of `contextcir generate`.

    Returns:
        `dict[str, matplotlib.figure.Figure]`: By name: `words`, `noun_phrases`, `operations`, `failures` and `cost`.
        Figures without data are left out.
    """
    stages = report["requests"]["stages"]
    cost = ("Cost by stage, USD", {entry["stage"]: entry["usd"] for entry in stages})
    if not any(cost[1].values()):
        tokens = {entry["stage"]: entry["prompt_tokens"] + entry["completion_tokens"] for entry in stages}
        cost = ("Tokens by stage", tokens)
    lost = {name.replace("_", " "): count for name, count in report["failures"].items()}
    lost |= {f"caption: {name.replace('_', ' ')}": count for name, count in report["captions"]["dropped"].items()}
    drawn = {
        "words": (_histogram, "Triplets by number of words", report["triplets"]["words"]),
        "noun_phrases": (_histogram, "Triplets by number of noun phrases", report["triplets"]["noun_phrases"]),
        "operations": (_counts, "Captions by operation", report["operations"]),
        "failures": (_counts, "Failed pairs and dropped captions", lost),
        "cost": (_counts, *cost),
    }
    return {name: draw(title, values) for name, (draw, title, values) in drawn.items() if values}


def _histogram(title: str, counts: Mapping[str, int]) -> Figure:
    with chart(5.2, 2.6, title) as figure:
        axes = figure.add_subplot()
        axes.bar([int(size) for size in counts], list(counts.values()), color=RUNS[0], width=0.9)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="y")
    return figure


def _counts(title: str, values: Mapping[str, float]) -> Figure:
    return bars(title, values, lambda value: f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
