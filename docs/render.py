"""Render the numbers of the README from the JSON of runs that happened; nothing in those tables is typed.

    python docs/render.py            # rewrites the marked parts of README.md
    python docs/render.py --check    # fails when README.md says anything else than the JSON files

A part of the README between `<!-- NAME -->` and `<!-- /NAME -->` belongs to the function of that name in `PARTS`.
The files under `docs/results` are what `benchmark.py` and `bench/` wrote; `demo.json` holds what `time` said
of `make demo`.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
METRICS = ("recall@1", "recall@5", "recall@10", "recall_subset@1")


def read(name: str) -> dict:
    """One result file."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, first column left, others right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def provenance(record: dict) -> str:
    """Where a table comes from, in one line."""
    return (
        f"{record['num_queries']:,} queries, gallery of {record['gallery_size']:,}, protocol "
        f"`{record['protocol_id']}`; `python {record['command']}` at commit `{record['commit'][:7]}`."
    )


def measured(name: str) -> str:
    """The table of one `benchmark.py` run."""
    record = read(name)
    rows = [
        [result["retriever"], *(f"{result['metrics'][metric]:.1f}" for metric in METRICS)]
        for result in record["results"]
    ]
    return table(["", *METRICS], rows) + "\n\n" + provenance(record)


def claims() -> str:
    """What `ablate.py` has found of the paper's claims, from its page."""
    page = (ROOT / "docs" / "scenes_results.md").read_text(encoding="utf-8")
    return re.search(r"<!-- claims -->\n(.*?)\n<!-- /claims -->", page, flags=re.DOTALL).group(1)


def bench() -> str:
    """The table of `bench/models.py`."""
    record = read("bench.json")
    rows = [
        [row["name"], f"{row['ratio']:.2f}", row["goal"], "yes" if row["met"] else "**no**"] for row in record["rows"]
    ]
    how = f"{record['device']}, {record['threads']} thread, medians of {record['repeats']}, torch {record['torch']}"
    return (
        table(["", "measured", "goal", "met"], rows) + f"\n\n`make bench`, {how}, at commit `{record['commit'][:7]}`."
    )


def demo() -> str:
    """How long `make demo` took."""
    record = read("demo.json")
    where = f"on {record['cores']} CPU cores, commit `{record['commit'][:7]}`"
    return f"`{record['command']}` took {record['seconds'] / 60:.1f} minutes after the install ({where})."


PARTS = {
    "demo": demo,
    "scenes": lambda: measured("scenes_tiny.json"),
    "claims": claims,
    "full": lambda: measured("scenes_full.json"),
    "bench": bench,
    "grocery": lambda: measured("grocery.json"),
}


def rendered(text: str) -> str:
    """The README with every marked part made anew; a mark without a function is an error."""

    def part(match: re.Match) -> str:
        name = match.group(1)
        return f"<!-- {name} -->\n{PARTS[name]()}\n<!-- /{name} -->"

    return re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", part, text, flags=re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    """Rewrite or check; the exit status is 1 where a check fails."""
    argv = sys.argv[1:] if argv is None else argv
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    after = rendered(before)
    if "--check" in argv:
        if before != after:
            print("README.md says something else than the files in docs/results. Run `python docs/render.py`.")
        return int(before != after)
    readme.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
