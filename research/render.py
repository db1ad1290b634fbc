"""Render the numbers of the README and of docs/speed.md from the JSON of runs that happened; none of them is typed.

    python research/render.py            # rewrites the marked parts of these pages
    python research/render.py --check    # fails when one says anything else than the JSON files

A part of a page between `<!-- NAME -->` and `<!-- /NAME -->` belongs to the function of that name in `PARTS`.
The files under `docs/results` are what `benchmark.py` and `bench/` wrote; `demo.json` holds what `time` said
of `make demo`.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/speed.md")
RESULTS = ROOT / "docs" / "results"
STAGES = ("retrieved", "verified", "evaluated")  # of ImageScope
METRICS = ("recall@1", "recall@5", "recall@10", "recall_subset@1")


def read(name: str) -> dict:
    """One result file."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, first column left, others right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def goals(rows: list[dict], measured: str = "value") -> str:
    """The table of a bench: what was measured beside its goal."""
    cells = [
        [row["name"], f"{row[measured]:.2f}" if row[measured] >= 0.1 else f"{row[measured]:.2g}", row["goal"]]
        + ["yes" if row["met"] else "**no**"]
        for row in rows
    ]
    return table(["", "measured", "goal", "met"], cells)


def provenance(record: dict) -> str:
    """Where a table comes from, in one line."""
    command = f"python {record['command'].removeprefix('python ')}"
    return (
        f"{record['num_queries']:,} queries, gallery of {record['gallery_size']:,}, protocol "
        f"`{record['protocol_id']}`; `{command}` at commit `{record['commit'][:7]}`."
    )


def measured(name: str) -> str:
    """The table of one `benchmark.py` run."""
    record = read(name)
    rows = [
        [result["retriever"], *(f"{result['metrics'][metric]:.1f}" for metric in METRICS)]
        for result in record["results"]
    ]
    return table(["", *METRICS], rows) + "\n\n" + provenance(record)


def claims(page: str) -> str:
    """What `ablate.py` has found of a paper's claims, from its page."""
    page = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.search(r"<!-- claims -->\n(.*?)\n<!-- /claims -->", page, flags=re.DOTALL).group(1)


def instructcir() -> str:
    """InstructCIR on the test set, and with the queries in generated words."""
    reworded = read("scenes_instructcir_reworded.json")
    metrics = reworded["results"][0]["metrics"]
    found = ", ".join(f"{name} {metrics[name]:.1f}" for name in METRICS)
    return measured("scenes_instructcir.json") + (
        f"\n\nAsked in generated words (`datasets_scripts/reword_scenes.py`), the same model finds: {found}."
        f" {provenance(reworded)}"
    )


def data_rate() -> str:
    """The table of `research/bench/data.py`."""
    record = read("bench_data.json")
    rows = [
        [
            "encoded once, kept by `datasets`" if row["encoded"] else "read, decoded and encoded in every step",
            f"{row['rate']:.0%}",
            f"{row['images_per_second']:,.0f}",
            f"{row['share_waiting']:.0%}",
            f"{row['seconds_per_step']:.2f}",
        ]
        for row in record["rows"]
    ]
    header = ["images", "of the rate in memory", "images/s", "waiting", "seconds a step"]
    how = f"{record['device']}, {record['cores']} cores, {record['workers']} loader process"
    return table(header, rows) + (
        f"\n\n`python -m research.bench.data`, the demo's recipe, batch {record['batch_size']}, {how}, medians of"
        f" {record['repeats']} rounds of {record['steps']} steps, at commit `{record['commit'][:7]}`."
    )


def scope_rerank() -> str:
    """What re-ranking adds to the demo model, by `research/bench/imagescope.py`."""
    record = read("imagescope_rerank.json")
    rows = [
        [
            f"all roles err in {row['rate']:.0%}" if row["rate"] else "nobody errs",
            *(f"{row['stages'][stage]['metrics']['recall@1']:.1f}" for stage in STAGES),
            f"{row['stages']['evaluated']['metrics']['recall_subset@1']:.1f}",
            f"{row['per_query']['all']['calls']:.1f}",
            f"{row['per_query']['all']['usd']:.4f}",
        ]
        for row in record["rerank"]["rows"]
    ]
    header = ["", "recall@1 of the model", "verified", "evaluated", "recall_subset@1", "calls a query", "USD a query"]
    return table(header, rows) + (
        f"\n\n{provenance(record)} USD as if each of the oracle's tokens cost what {record['price']['model']}'s do."
    )


def scope_errors() -> str:
    """What ImageScope finds when its roles err, by `research/bench/imagescope.py`."""
    record = read("imagescope_oracle.json")
    rows = [
        [
            row["errs"] if row["rate"] == 0 else f"{row['errs']}, {row['rate']:.0%}",
            *(f"{row['stages'][stage]['metrics']['recall@1']:.1f}" for stage in STAGES),
            f"{row['per_query']['all']['calls']:.1f}",
        ]
        for row in record["errors"]["rows"]
        if row["rate"] in (0, 0.2)
    ]
    most = record["injection"]["rows"][-1]
    return table(["errs", "retrieved", "verified", "evaluated", "calls a query"], rows) + (
        f"\n\nRecall@1 after each stage, {record['num_queries']} queries, gallery of {record['gallery_size']:,},"
        f" protocol `{record['protocol_id']}`; `{record['command']}` at commit `{record['commit'][:7]}`. With"
        f' "{record["injection"]["order"]}" drawn across every picture that no query is about, and a verifier and an'
        f" evaluator that always obey, {most['stages']['evaluated']['metrics']['recall@1']:.1f} are left; it flips"
        f" {most['verdicts']['open_flipped']:.0f} % of the verdicts that it can."
    )


def scope_speed() -> str:
    """The table of `research/bench/imagescope_speed.py`."""
    record = read("imagescope_speed.json")
    return goals(record["rows"]) + (
        f"\n\n`{record['command']}`, killed once, on {record['cores']} cores, at commit `{record['commit'][:7]}`."
    )


def captions_bench() -> str:
    """The table of `research/bench/captions.py`."""
    record = read("bench_captions.json")
    rows = [row | {"name": f"{row['mode']}: {row['name']}"} for row in record["rows"]]
    counts = "; ".join(
        f"{mode}: {record[mode]['pairs']['done']:,} of {record[mode]['pairs']['given']:,} pairs captioned,"
        f" {record[mode]['pairs']['refused']:,} refused, {record[mode]['pairs']['failed']:,} failed"
        for mode in record["settings"]["faults"]
    )
    return goals(rows) + (
        f"\n\n{counts}. `{record['command']}`, {record['settings']['concurrency']} requests at a time, killed three"
        f" times in each mode, at commit `{record['commit'][:7]}`."
    )


def bench(name: str) -> str:
    """A table of `research/bench/models.py`."""
    record = read(name)
    how = f"{record['device']}, {record['threads']} thread, medians of {record['repeats']}, torch {record['torch']}"
    return f"{goals(record['rows'], 'ratio')}\n\n`make bench`, {how}, at commit `{record['commit'][:7]}`."


def demo() -> str:
    """How long `make demo` took."""
    record = read("demo.json")
    where = f"on {record['cores']} CPU cores, commit `{record['commit'][:7]}`"
    return f"`{record['command']}` took {record['seconds'] / 60:.1f} minutes after the install ({where})."


PARTS = {
    "demo": demo,
    "scenes": lambda: measured("scenes_tiny.json"),
    "claims": lambda: claims("scenes_results.md"),
    "instructcir": instructcir,
    "instructcir_claims": lambda: claims("instructcir_results.md"),
    "data_rate": data_rate,
    "captions_bench": captions_bench,
    "scope_errors": scope_errors,
    "scope_rerank": scope_rerank,
    "scope_speed": scope_speed,
    "full": lambda: measured("scenes_full.json"),
    "bench": lambda: bench("bench.json"),
    "bench_instructcir": lambda: bench("bench_instructcir.json"),
    "grocery": lambda: measured("grocery.json"),
}


def rendered(text: str) -> str:
    """A page with every marked part made anew; a mark without a function is an error."""

    def part(match: re.Match) -> str:
        name = match.group(1)
        return f"<!-- {name} -->\n{PARTS[name]()}\n<!-- /{name} -->"

    return re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", part, text, flags=re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    """Rewrite or check; the exit status is 1 where a check fails."""
    argv = sys.argv[1:] if argv is None else argv
    before = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
    after = {page: rendered(text) for page, text in before.items()}
    if "--check" in argv:
        stale = [page for page in PAGES if before[page] != after[page]]
        for page in stale:
            print(f"{page} says something else than the files in docs/results. Run `python research/render.py`.")
        return int(bool(stale))
    for page, text in after.items():
        (ROOT / page).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
