"""The leaderboard: our own runs, a table for each protocol id. Rows of two protocols never meet."""

import json
from pathlib import Path
from typing import Any

COLUMNS = ("recall@1", "recall@5", "recall@10", "recall@50", "recall_subset@1", "map@5", "map@10", "bri")


def leaderboard(results: Path) -> str:
    """
    Render all tables.

    Args:
        results (`Path`): Folder with records of `contextcir benchmark`; those in its folder `leaderboard` count, too.

    Returns:
        `str`: Markdown, in the order of protocol ids.
    """
    files = [*sorted(results.glob("*.json")), *sorted(results.glob("leaderboard/*.json"))]
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    records = [record for record in records if "protocol_id" in record and isinstance(record.get("results"), list)]
    protocols = sorted({record["protocol_id"] for record in records})
    return "\n\n".join(
        of_protocol(id_, [record for record in records if record["protocol_id"] == id_]) for id_ in protocols
    )


def of_protocol(protocol_id: str, records: list[dict[str, Any]]) -> str:
    """
    Render the table of one protocol: each method with its intervals, best first, then chance.

    Args:
        protocol_id (`str`): The id of all records.
        records (`list[dict]`): Records of `contextcir benchmark`.

    Raises:
        `ValueError`: The records have different numbers of queries or images.
    """
    if len({(record["num_queries"], record["gallery_size"]) for record in records}) > 1:
        raise ValueError(f"{protocol_id}: the records have different sizes. They cannot be of one protocol.")
    found: dict[Any, tuple[dict[str, Any], dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record.get("date", "")):
        for result in record["results"]:
            # The same baseline is measured beside several models: its last run stands for all that agree.
            key = result["retriever"], encoder(result, record), json.dumps(result["metrics"])
            found[key] = result, record
    measured = [name for name in COLUMNS if all(name in result["metrics"] for result, _ in found.values())]
    ranked = sorted(found.values(), key=lambda one: -one[0]["metrics"][measured[0]])
    rows = [
        [result["retriever"], encoder(result, record), *(cell(result, name) for name in measured)]
        + [record.get("date", "–"), f"`{record['commit'][:7]}`"]
        for result, record in ranked
    ]
    rows.append(["chance", "", *(f"{records[0]['chance'][name]:.1f}" for name in measured), "", ""])
    lines = [
        ["method", "encoder", *measured, "date", "commit"],
        ["---", "---", *["---:"] * len(measured), "---", "---"],
    ]
    table = "\n".join("| " + " | ".join(line) + " |" for line in [*lines, *rows])
    commands = dict.fromkeys(f"- `{record['command']}`" for _, record in ranked)
    sizes = f"{records[0]['num_queries']:,} queries, gallery of {records[0]['gallery_size']:,}, in percent."
    return "\n\n".join([f"## `{protocol_id}`", sizes, table, "\n".join(commands)])


def encoder(result: dict[str, Any], record: dict[str, Any]) -> str:
    """The CLIP that a method searches with; nothing for a model, which is its own."""
    model = result.get("model", {})
    is_baseline = result["retriever"].startswith("CLIP, ")
    return model.get("clip") or (record.get("clip") if is_baseline else None) or ""


def cell(result: dict[str, Any], name: str) -> str:
    """A number with its 95 % interval, where it was kept."""
    interval = result.get("intervals", {}).get(name)
    return f"{result['metrics'][name]:.1f}" + (f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else "")
