"""What an audit found, a picture each: halves of queries, failures, lengths, and what a retriever listens to."""

from collections.abc import Mapping, Sequence
from typing import Any

from contextcir.visualization.charts import bars, chart_style, titled_axes
from contextcir.visualization.page import INK, RUNS, Figure


def audit_figures(findings: Mapping[str, Any]) -> dict[str, Figure]:
    """
    Draw the findings of an audit.

    Args:
        findings (`Mapping[str, Any]`): `Audit.findings`.

    Returns:
        `dict[str, matplotlib.figure.Figure]`: By name: `modality`, `failures`, `length`, `phrases`, `listening`.
    """
    with chart_style():
        return {
            "modality": _modality(findings["modality"]),
            "failures": _percent("Kinds of wrong first hits, % of failures", findings["failures"]["kinds"]),
            "length": _ranges("Recall by words of the text", findings["length"]),
            "phrases": _ranges("Recall by noun phrases of the text", findings["phrases"]),
            "listening": _listening(findings),
        }


def _percent(title: str, values: Mapping[str, float]) -> Figure:
    return bars(title, values, "{:.1f}".format, width=4.6, least=1.0)


def _modality(findings: Mapping[str, Mapping[str, Any]]) -> Figure:
    names = ("composed", "image", "text", "image or text", "only composed")
    figure, axes = titled_axes("Queries solved, %", 5.6, 2.8)
    width = 0.8 / len(findings)
    for place, (metric, values) in enumerate(findings.items()):
        lefts = [x + width * (place - (len(findings) - 1) / 2) for x in range(len(names))]
        drawn = axes.bar(lefts, [values[name] for name in names], width * 0.92, color=RUNS[place], label=metric)
        axes.bar_label(drawn, fmt="%.0f", fontsize=8, color=INK)
    axes.set_xticks(range(len(names)), names)
    axes.legend(fontsize=8)
    return figure


def _ranges(title: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure, axes = titled_axes(title, 4.6, 2.8)
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
    axes.grid(axis="y")
    return figure


def _listening(findings: Mapping[str, Any]) -> Figure:
    named = {"a carrier phrase added": findings["paraphrase"], "a noun phrase left out": findings["dropping"]}
    values = {}
    for what, found in named.items():
        if found["num_variants"]:
            values[f"{what}: same first hit"] = found["same first hit"]
            values[f"{what}: of the ten that stay"] = found["top 10 that stays"]
    return _percent("What changes in the ranking, %", values or {"no text could be changed": 0.0})
