"""What an audit found, a picture each: halves of queries, failures, lengths, and what a retriever listens to."""

from collections.abc import Mapping, Sequence
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
    rc_context,
)


def audit_figures(findings: Mapping[str, Any]) -> dict[str, Figure]:
    """
    Draw the findings of an audit.

    Args:
        findings (`Mapping[str, Any]`): `Audit.findings`.

    Returns:
        `dict[str, matplotlib.figure.Figure]`: By name: `modality`, `failures`, `length`, `phrases`, `listening`.
    """
    with rc_context({"font.family": FONT, "font.size": SMALL, "text.parse_math": False}):
        return {
            "modality": _modality(findings["modality"]),
            "failures": _bars("Kinds of wrong first hits, % of failures", findings["failures"]["kinds"]),
            "length": _ranges("Recall by words of the text", findings["length"]),
            "phrases": _ranges("Recall by noun phrases of the text", findings["phrases"]),
            "listening": _listening(findings),
        }


def _axes(title: str, width: float = 4.6, height: float = 2.8):
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    figure.suptitle(title, x=0.01, ha="left", fontsize=TEXT, color=INK)  # over the labels too
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelsize=8)
    return figure, axes


def _bars(title: str, values: Mapping[str, float]) -> Figure:
    figure, axes = _axes(title, height=0.9 + 0.32 * len(values))
    places = range(len(values))
    axes.barh(places, values.values(), color=RUNS[0], height=0.62)
    axes.set_yticks(places, values.keys())
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.0, *values.values()) * 1.15)
    for place, value in zip(places, values.values(), strict=True):
        axes.text(value, place, f" {value:.1f}", va="center", color=INK, fontsize=8)
    return figure


def _modality(findings: Mapping[str, Mapping[str, Any]]) -> Figure:
    names = ("composed", "image", "text", "image or text", "only composed")
    figure, axes = _axes("Queries solved, %", width=5.6)
    width = 0.8 / len(findings)
    for place, (metric, values) in enumerate(findings.items()):
        lefts = [x + width * (place - (len(findings) - 1) / 2) for x in range(len(names))]
        bars = axes.bar(lefts, [values[name] for name in names], width * 0.92, color=RUNS[place], label=metric)
        axes.bar_label(bars, fmt="%.0f", fontsize=8, color=INK)
    axes.set_xticks(range(len(names)), names)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _ranges(title: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure, axes = _axes(title)
    labels = []
    for row in rows:
        low, high = row["from"], row["to"]
        span = f"{low}+" if high is None else str(low) if low == high else f"{low}-{high}"
        labels.append(f"{span}\nn={row['num_queries']}")
    for place, k in enumerate((1, 10)):
        values = [row[f"recall@{k}"] for row in rows]
        below = [value - row[f"interval@{k}"][0] for value, row in zip(values, rows, strict=True)]
        above = [row[f"interval@{k}"][1] - value for value, row in zip(values, rows, strict=True)]
        errors = [[max(0.0, some) for some in side] for side in (below, above)]
        axes.errorbar(range(len(rows)), values, errors, color=RUNS[place], marker="o", markersize=4, capsize=3)
        axes.annotate(
            f"recall@{k}", (len(rows) - 1, values[-1]), (6, 0), textcoords="offset points", color=RUNS[place]
        )
    axes.set_xticks(range(len(rows)), labels)
    axes.set_xlim(-0.3, len(rows) - 0.1)
    axes.set_ylim(0, 100)
    axes.grid(color=FAINT, linewidth=0.6, axis="y")
    return figure


def _listening(findings: Mapping[str, Any]) -> Figure:
    named = {"a carrier phrase added": findings["paraphrase"], "a noun phrase left out": findings["dropping"]}
    values = {}
    for what, found in named.items():
        if found["num_variants"]:
            values[f"{what}: same first hit"] = found["same first hit"]
            values[f"{what}: of the ten that stay"] = found["top 10 that stays"]
    return _bars("What changes in the ranking, %", values or {"no text could be changed": 0.0})
