"""Show what chat models were asked and what it has cost, or save a damaged ledger.

    contextcir ledger show out
    contextcir ledger recover out

The folder is that of `contextcir generate --output` or of `contextcir benchmark --trace`. `show` prints requests,
outcomes and cost by role, also while a run goes on. `recover` writes all rows that are whole into a new ledger, keeps
the damaged file beside it, and counts what is lost: these requests are sent, and paid for, again.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser


@dataclass
class LedgerArguments:
    """What to do, and with which folder."""

    _argument_group_name = "Ledger"

    action: Literal["show", "recover"] = HfArg(help="What to do.")
    folder: str = HfArg(help="Folder of a run.")


def main(argv: Sequence[str]) -> int:
    """Do it. Returns the exit code."""
    (args,) = CommandParser([LedgerArguments], "contextcir ledger", __doc__, ("action", "folder")).parse(argv)
    for path in ledgers(Path(args.folder)):
        print(show(path) if args.action == "show" else recovered(path))
    return 0


def ledgers(folder: Path) -> list[Path]:
    """The ledgers of a run: that of the folder, or one for each process of ImageScope."""
    from contextcir.chat.ledger_file import NAME

    found = [folder / NAME] if (folder / NAME).is_file() else sorted(folder.glob(f"answers-*/{NAME}"))
    if not found:
        raise ValueError(f"{folder} holds no {NAME}. Give the folder of --output (captions) or --trace (ImageScope).")
    return found


def show(path: Path) -> str:
    """Requests, outcomes and cost by role, in lines of equal length."""
    from contextcir.chat.ledger_file import VERSION, rows_of
    from contextcir.chat.ledger_report import killed_usd, report_rows
    from contextcir.evaluation.results import align

    version = rows_of(path, "select value from settings where name = 'ledger'")
    if version and version[0]["value"] != str(VERSION):
        raise ValueError(
            f"{path} has version {version[0]['value']} of the tables, this contextcir shows {VERSION}. A run on the"
            " folder brings an older one up to date; for a newer one, install the newer contextcir."
        )

    def query(sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in rows_of(path, sql, values)]

    rows = report_rows(query)
    names = ("requests", "sends", "prompt_tokens", "completion_tokens")
    lines = [["role, outcome", "requests", "sends", "tokens read", "written", "USD"]]
    for row in rows:
        outcome = row["kind"] or ("in flight" if row["state"] == "sent" else "not sent")
        lines.append([f"{row['role']}, {outcome}", *(f"{row[name]:,}" for name in names), f"{row['usd']:.4f}"])
    sums = [f"{sum(row[name] for row in rows):,}" for name in names]
    lines.append(["all", *sums, f"{sum(row['usd'] for row in rows):.4f}"])
    killed = killed_usd(query)
    ((lost, reserved),) = query("select total(lost_usd), total(reserved_usd) from requests")
    notes = {
        "in flight now, at most": reserved,
        "time-outs and lost rows, at most": lost,
        f"in flight when a run ended ({killed['requests']:,} requests), likely": killed["usd"],
    }
    unsure = [f"Perhaps charged, {name}: ${usd:.4f}" for name, usd in notes.items() if usd]
    unsure += [
        f"{sum(row[name] for row in rows):,} requests {why}"
        for name, why in {
            "doubtful": "came without a usage that can be believed, and count at their upper bound.",
            "overcharged": "cost more than their upper bound: check the price.",
        }.items()
        if sum(row[name] for row in rows)
    ]
    return "\n".join([f"{path}\n", align(lines), *unsure, ""])


def recovered(path: Path) -> str:
    """Recover a ledger, and say what became of it."""
    from contextcir.chat.ledger_recovery import recover

    found = recover(path)
    if not found.saved:
        print(f"{path}: no row could be read.", file=sys.stderr)
    return (
        f"{path}: {found.saved:,} requests saved, {found.lost:,} known to be lost (booked as ${found.lost_usd:.4f})."
        f" The damaged file is kept as {found.kept.name}."
    )


if __name__ == "__main__":
    from contextcir.cli.main import command

    sys.exit(command("ledger"))
