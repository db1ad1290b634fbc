"""The page of a grid: a table and a figure for each part, and the differences in the paper and here."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.ablation.grid import Grid, Part

COLUMNS = ("recall@1", "recall@10", "recall_subset@1")  # of the benchmark's metrics
GROUNDED = ("pointing", "mass")  # attention of all noun phrases that denote something
HEAD, END_OF_HEAD = "<!-- head of other experiments -->", "<!-- end of head -->"
LOGGED = ("context_entropy", "map_diversity")  # of the last log of the training


def columns_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of a result that the page shows; `None` if it has no such number."""
    metrics, grounding = record["results"][0]["metrics"], record.get("grounding", {}).get("all", {})
    return {
        **{name: metrics[name] for name in COLUMNS},
        **{name: grounding.get(name) for name in GROUNDED},
        **{name: record["logged"].get(name) for name in LOGGED},
    }


def spread(numbers: Sequence[float | None], digits: int = 1) -> str:
    """Return mean and standard deviation as text, or a dash if there are no numbers."""
    known = [number for number in numbers if number is not None]
    if not known:
        return "–"
    deviation = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{deviation}"


def differences(of: Sequence[dict[str, Any]], against: Sequence[dict[str, Any]], column: str) -> list[float]:
    """Return the differences between two variants, for each seed that both have."""
    base = {record["seed"]: columns_of(record)[column] for record in against}
    return [columns_of(record)[column] - base[record["seed"]] for record in of if record["seed"] in base]


def agreement(paper: float, ours: Sequence[float]) -> str:
    """Return `yes` if all seeds have the paper's sign, `no` if all have the opposite one, else `undecided`."""
    if not ours:
        return "–"
    signs = {(difference * paper > 0) - (difference * paper < 0) for difference in ours}
    return {1: "yes", -1: "no"}.get(signs.pop(), "undecided") if len(signs) == 1 else "undecided"


def claims_table(parts: Sequence[Part], results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the table of the differences that the paper reports, and of the same two variants here."""
    lines = ["| | paper: recall@1 | seeds | recall@1 | recall@10 | agrees |", "|---|---:|---:|---:|---:|---|"]
    for part in parts:
        for claim in part.paper:
            variant, other = claim["of"], claim.get("against", "default")
            some, base = results.get(variant, []), results.get(other, [])
            ours = {column: differences(some, base, column) for column in COLUMNS[:2]}
            cells = [
                f"{statistics.mean(found):+.1f} ({min(found):+.1f} to {max(found):+.1f})" if found else "–"
                for found in ours.values()
            ]
            verdict = agreement(claim["recall@1"], ours["recall@1"])
            lines.append(
                f"| `{variant}` less `{other}` | {claim['recall@1']:+.2f} | {len(ours['recall@1'])}"
                f" | {' | '.join(cells)} | {verdict} |"
            )
    return lines


def in_words(options: dict[str, Any]) -> str:
    """Return the options of a variant as text. Removed options are listed only if it is `like` another variant."""
    words = []
    for key, value in options.items():
        if isinstance(value, dict):
            words.append(f"{key} {in_words(value)}")
        elif value is not None:
            words.append(f"{key} {value}")
        elif "like" in options:
            words.append(f"no {key}")
    return ", ".join(words)


def part_lines(part: Part, results: dict[str, list[dict[str, Any]]], figure: str) -> list[str]:
    """Return claim, table, figure and verdict of a part."""
    lines = [f"## {part.title}", "", part.claim.strip(), ""]
    columns = (*COLUMNS, *GROUNDED, *LOGGED)
    header = ["", "seeds", *(name if "@" in name else name.replace("_", " ") for name in columns)]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" + "---:|" * (len(header) - 1)]
    for variant, options in part.variants.items():
        if not results.get(variant):
            continue
        found = [columns_of(record) for record in results.get(variant, [])]
        cells = [spread([row[name] for row in found], 2 if name in LOGGED else 1) for name in columns]
        what = in_words(options)
        label = f"`{variant}`" + (f": {what}" if what else "")
        lines.append("| " + " | ".join([label, str(len(found)), *cells]) + " |")
    for result in json.loads(Path(part.beside).read_text(encoding="utf-8"))["results"] if part.beside else ():
        cells = [f"{result['metrics'][name]:.1f}" if name in COLUMNS else "–" for name in columns]
        lines.append("| " + " | ".join([result["retriever"], "–", *cells]) + " |")
    lines += [
        "",
        f"![{part.title}: what each variant reaches, a dot for each seed and a line for their mean]({figure})",
        "",
    ]
    if missing := [f"`{variant}`" for variant in part.variants if not results.get(variant)]:
        lines += [f"Not run: {', '.join(missing)}.", ""]
    return [*lines, *([part.verdict.strip(), ""] if part.verdict else [])]


def _budget(base: dict[str, Any]) -> str:
    """Return the length of each training as text."""
    names = {"max_steps": "steps", "num_train_epochs": "epochs", "per_device_train_batch_size": "triplets a step"}
    return ", ".join(f"{base[name]} {what}" for name, what in names.items() if name in base)


def _chance(record: dict[str, Any]) -> str:
    """Return a sentence with the scores of attention maps that ignore the image."""
    found = record.get("grounding", {}).get("all", {})
    if "chance" not in found:
        return ""
    return f" By chance, {found['chance']:.1f} % of the mass lies on what a phrase names, and so does its maximum."


def head_of(page: str) -> list[str]:
    """Return the lines of an existing page from `HEAD` to `END_OF_HEAD`: a section of other experiments, which this
    one leaves as it is, and the heading of what follows. Empty if there is none."""
    lines = page.splitlines()
    if HEAD not in lines:
        return []
    return [*lines[lines.index(HEAD) : lines.index(END_OF_HEAD) + 1], "", "## The grid", ""]


def page_lines(
    grid: Grid,
    results: dict[str, list[dict[str, Any]]],
    command: str,
    figures: dict[str, str],
    head: Sequence[str] = (),
) -> list[str]:
    """
    Return the page, as lines of Markdown.

    Args:
        grid ([`Grid`]): The grid.
        results (`dict[str, list[dict]]`): The records of each variant, one for each seed.
        command (`str`): The command that renders the page.
        figures (`dict[str, str]`): Part -> path of its figure. Parts without a figure are left out.
        head (`Sequence[str]`, *optional*): Lines of other experiments, before those of the grid.

    Raises:
        ValueError: There are no results, or results of two protocols.
    """
    records = [record for some in results.values() for record in some]
    if not records:
        raise ValueError("There are no results of this grid. Run it without --render.")
    if len(protocols := {record["protocol_id"] for record in records}) > 1:
        raise ValueError(f"There are results of {' and '.join(sorted(protocols))}. Remove the old ones.")
    first, split = records[0], grid.base["benchmark_split"]
    commits = ", ".join(sorted({f"`{(record['commit'] or 'unknown')[:7]}`" for record in records}))
    lines = [
        f"# {grid.title}",
        "",
        *head,
        f"{len(records)} trainings with the options in `base.yaml` ({_budget(grid.base)} on {first['device']})"
        " and the changes in their line of the table. Measured on"
        f" the {split} split ({first['num_queries']} queries, gallery of {first['gallery_size']:,}, protocol"
        f" `{first['protocol_id']}`), mean ± standard deviation over seeds. Commits {commits}; rendered by"
        f" `{command}`.{_chance(first)}",
        "",
    ]
    if any(part.paper for part in grid.parts):
        lines += [
            "<!-- claims -->",
            *claims_table(grid.parts, results),
            "",
            f"Differences in points. Here: mean over the seeds (lowest to highest) on the {split} split. The paper:"
            f" {grid.paper}. A claim agrees if every seed has the paper's sign.",
            "<!-- /claims -->",
            "",
        ]
    for part in grid.parts:
        if part.name in figures:
            lines += part_lines(part, results, figures[part.name])
    return lines
