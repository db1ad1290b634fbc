"""Read the JSON files in `docs/results`, and write tables of them with where the numbers come from."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"


def read(name: str) -> dict[str, Any]:
    """Read a file of `docs/results`."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table with the first column aligned left and the others right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def goals(rows: list[dict[str, Any]], column: str = "value") -> str:
    """Return the table of a bench: measured values and their goals."""
    cells = [
        [row["name"], f"{row[column]:.2f}" if row[column] >= 0.1 else f"{row[column]:.2g}", row["goal"]]
        + [("yes" if row["met"] else "**no**") if row["goal"] else ""]
        for row in rows
    ]
    return table(["", "measured", "goal", "met"], cells)


def source(record: dict[str, Any]) -> str:
    """Return the command and the commit of a record. Records of scripts begin with their name, without `python`."""
    command = record["command"]
    python = "python " if command.split()[0].endswith(".py") else ""
    return f"`{python}{command}` at commit `{record['commit'][:7]}`"


def provenance(record: dict[str, Any]) -> str:
    """Describe in one sentence how a benchmark was measured."""
    sizes = f"{record['num_queries']:,} queries, gallery of {record['gallery_size']:,}"
    return f"{sizes}, protocol `{record['protocol_id']}`; {source(record)}."


def streams() -> str:
    """Return the table of `research.bench.streams`."""
    record = read("bench_streams.json")
    settings, memory, first = record["settings"], record["memory"], record["seconds_to_first_batch"]
    at = ", ".join(
        f"{moment['main'] + moment['loader']:,.0f} MB after {moment['share']:.0%} of a pass" for moment in memory
    )
    rates = ", ".join(f"{name} {rate:,.0f} rows/s" for name, rate in record["rates"].items())
    undecoded, mixed = (record[f"rows_per_second_{name}"] for name in ("undecoded", "mixed"))
    return (
        f"{goals(record['rows'])}\n\nThe rates are {rates}; without decoding {undecoded:,.0f} rows/s, and {mixed:,.0f}"
        f" of two data sets that are mixed. Both processes together have {at}. The first batch of a new run comes"
        f" after {first['new']:.1f} s, that of one resumed in the middle of a pass after {first['resumed']:.1f} s."
        f"\n\n`{record['command']}`: {settings['rows']:,} rows in Parquet files on a local disk, pictures of"
        f" {record['image_size']} pixels, batch {settings['batch_size']}, one loader process, medians of"
        f" {settings['repeats']} rounds, {record['cores']} CPU cores, at commit `{record['commit'][:7]}`."
    )
