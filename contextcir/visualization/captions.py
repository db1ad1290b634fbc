"""What a run of caption generation gave, a picture each: lengths, operations, noun phrases, failures and cost."""

from collections.abc import Mapping
from typing import Any

from contextcir.visualization.charts import bars, chart_style, titled_axes
from contextcir.visualization.page import RUNS, Figure, MaxNLocator


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
        "operations": (_counts, "Captions by operation", report["operations"]),
        "failures": (_counts, "Pairs that failed and captions that were dropped", lost),
        "cost": (_counts, *(("Cost by stage, USD", spent) if any(spent.values()) else ("Tokens by stage", tokens))),
    }
    with chart_style():
        return {name: draw(title, values) for name, (draw, title, values) in drawn.items() if values}


def _histogram(title: str, counts: Mapping[str, int]) -> Figure:
    figure, axes = titled_axes(title, 5.2, 2.6)
    axes.bar([int(size) for size in counts], counts.values(), color=RUNS[0], width=0.9)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(axis="y")
    return figure


def _counts(title: str, values: Mapping[str, float]) -> Figure:
    return bars(title, values, lambda value: f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
