"""The tables of what mined negatives add, from the JSON of `research/mine_scenes.py`."""

import statistics
from collections.abc import Callable
from typing import Any

COUNTED = ("negatives", "right_answers")
Table = Callable[[list[str], list[list[str]]], str]


def mining_parts(record: dict[str, Any], table: Table) -> list[str]:
    """
    Return three tables, each with its sentence: recall, differences, and right answers among the negatives.

    Args:
        record (`dict`): What `research/mine_scenes.py` has written.
        table (`Callable`): Header and rows -> a table.
    """
    runs, metrics = record["runs"], list(record["runs"][0]["metrics"])
    recall = [
        [name, *(_spread([run["metrics"][metric] for run in runs if run["name"] == name]) for metric in metrics)]
        for name in dict.fromkeys(run["name"] for run in runs)
    ]
    compared: dict[str, list[str]] = {}
    for row in record["differences"]:
        cell = f"{row['difference']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})"
        compared.setdefault(f"{row['of']} less {row['against']}", []).append(cell)
    counted = [
        [name, *(f"{sum(row[key] for row in record['mined'] if row['name'] == name):,}" for key in COUNTED)]
        for name in dict.fromkeys(row["name"] for row in record["mined"])
    ]
    seeds = len({run["seed"] for run in runs})
    return [
        table(["", *metrics], recall),
        f"Differences in points, means over {seeds} seeds, with paired 95 % intervals over queries. Another seed may"
        " differ by more:",
        table(["", *metrics], [[name, *cells] for name, cells in compared.items()]),
        "Negatives, and those of them that show the very scene of the target, and so are right answers:",
        table(["mining", "negatives", "right answers"], counted),
    ]


def _spread(numbers: list[float]) -> str:
    deviation = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.1f}{deviation}"
