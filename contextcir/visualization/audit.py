"""Figures of an audit: queries solved by half a query, types of failures, lengths, and effects of text edits."""

from collections.abc import Mapping, Sequence
from typing import Any

from contextcir.visualization.page import INK, RUNS, Figure, bars, chart, interval_errors


def audit_figures(findings: Mapping[str, Any]) -> dict[str, Figure]:
    """
    Draw the findings of an audit.

    Args:
        findings (`Mapping[str, Any]`): `Audit.findings`.

    Returns:
        `dict[str, matplotlib.figure.Figure]`: By name: `modality`, `failures`, `length`, `phrases`, `listening`.
    """
    return {
        "modality": _modality(findings["modality"]),
        "failures": _percent("Wrong top-1 results by type, % of failures", findings["failures"]["kinds"]),
        "length": _ranges("Recall by number of words, %", findings["length"]),
        "phrases": _ranges("Recall by number of noun phrases, %", findings["phrases"]),
        "listening": _stability(findings),
    }


def _percent(title: str, values: Mapping[str, float]) -> Figure:
    return bars(title, values, "{:.1f}".format, width=4.6, least=1.0)


def _modality(findings: Mapping[str, Mapping[str, Any]]) -> Figure:
    names = ("composed", "image", "text", "image or text", "only composed")
    width = 0.8 / len(findings)
    with chart(5.6, 2.8, "Queries solved, %") as figure:
        axes = figure.add_subplot()
        for place, (metric, values) in enumerate(findings.items()):
            lefts = [x + width * (place - (len(findings) - 1) / 2) for x in range(len(names))]
            drawn = axes.bar(lefts, [values[name] for name in names], width * 0.92, color=RUNS[place], label=metric)
            axes.bar_label(drawn, fmt="%.0f", fontsize=8, color=INK)
        axes.set_xticks(range(len(names)), names)
        axes.legend(fontsize=8)
    return figure


def _ranges(title: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    labels = []
    for row in rows:
        low, high = row["from"], row["to"]
        span = f"{low}+" if high is None else str(low) if low == high else f"{low}-{high}"
        labels.append(f"{span}\nn={row['num_queries']}")
    with chart(4.6, 2.8, title) as figure:
        axes = figure.add_subplot()
        for color, k in zip(RUNS, (1, 10), strict=False):
            values = [row[f"recall@{k}"] for row in rows]
            errors = interval_errors(values, [row[f"interval@{k}"] for row in rows])
            axes.errorbar(range(len(rows)), values, errors, color=color, marker="o", markersize=4, capsize=3)
            end = (len(rows) - 1, values[-1])
            axes.annotate(f"recall@{k}", end, (6, 0), textcoords="offset points", color=color)
        axes.set_xticks(range(len(rows)), labels)
        axes.set_xlim(-0.3, len(rows) - 0.1)
        axes.set_ylim(0, 100)
        axes.grid(axis="y")
    return figure


def _stability(findings: Mapping[str, Any]) -> Figure:
    values = {}
    for edit, found in (("carrier phrase added", "paraphrase"), ("noun phrase removed", "dropping")):
        if findings[found]["num_variants"]:
            values[f"{edit}: same top 1"] = findings[found]["same first hit"]
            values[f"{edit}: overlap of top 10"] = findings[found]["top 10 that stays"]
    return _percent("Stability of the ranking under text edits, %", values or {"no text could be edited": 0.0})
