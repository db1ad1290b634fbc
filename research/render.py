"""Render the numbers of the pages from the JSON files in `docs/results`.

    python research/render.py            # rewrite the marked parts of the pages
    python research/render.py --check    # exit with 1 if a page differs from the JSON files

A part of a page between `<!-- NAME -->` and `<!-- /NAME -->` is written by the function of that name in `PARTS`. The
JSON files are written by `contextcir benchmark` and `research/bench`; `demo.json` holds the duration of `make demo`.
"""

import re
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from research import reference
from research.faults import faults
from research.grounding.page import PARTS as GROUNDING
from research.leaderboard import leaderboard
from research.mining import mining_parts
from research.speed import SPEED_PARTS
from research.tables import RESULTS, ROOT, goals, provenance, read, source, table

PAGES = [  # pages with marked parts, relative to the root
    "README.md",
    "docs/api.md",
    "docs/commands.md",
    "docs/faults.md",
    "docs/imagescope.md",
    "docs/leaderboard.md",
    "docs/results.md",
    "docs/scale.md",
    "docs/scenes_results.md",
    "docs/search.md",
    "docs/train.md",
    "docs/speed.md",
]
STAGES = ("retrieved", "verified", "evaluated")  # of ImageScope
SEEDS = ("scenes_tiny_seed_1.json", "scenes_tiny_seed_2.json")  # the demo's training from other seeds
METRICS = ("recall@1", "recall@5", "recall@10", "recall_subset@1")


def measured(name: str) -> str:
    """Return the table of one run of `contextcir benchmark`."""
    record = read(name)
    rows = [
        [result["retriever"], *(f"{result['metrics'][metric]:.1f}" for metric in METRICS)]
        for result in record["results"]
    ]
    return table(["", *METRICS], rows) + "\n\n" + provenance(record)


def demo_seeds() -> str:
    """Return what other seeds of the demo's training find, and how differently seeds do."""
    records = [read(name) for name in SEEDS]
    own = read("scenes_tiny.json")["results"][0]["metrics"]["recall@1"]
    found = [own, *(record["results"][0]["metrics"]["recall@1"] for record in records)]
    commits = ", ".join(sorted({f"`{record['commit'][:7]}`" for record in records}))
    return (
        f"The demo is of seed 0. With `--seed 1` and `--seed 2` recall@1 is {found[1]:.1f} and {found[2]:.1f} (commit"
        f" {commits}): mean {statistics.mean(found):.1f}, standard deviation {statistics.stdev(found):.1f}. So a"
        " difference of some points between two trainings says little."
    )


def claims(page: str) -> str:
    """Copy the table of a paper's claims from a page of `research.ablate`."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(r"<!-- claims -->\n(.*?)\n<!-- /claims -->", text, flags=re.DOTALL)
    if found is None:
        raise ValueError(f"docs/{page} has no part `claims`. Render it with `python -m research.ablate --render`.")
    return found.group(1)


def instructcir() -> str:
    """InstructCIR on the test set, and with the queries in generated words."""
    reworded = read("scenes_instructcir_reworded.json")
    metrics = reworded["results"][0]["metrics"]
    found = ", ".join(f"{name} {metrics[name]:.1f}" for name in METRICS)
    return measured("scenes_instructcir.json") + (
        f"\n\nWith queries in generated words (`research/reword_scenes.py`), the same model reaches {found}."
        f" {provenance(reworded)}"
    )


def matryoshka() -> str:
    """Return recall of embeddings that are cut, of a model trained for it and of one that is not."""
    record = read("scenes_matryoshka.json")
    found: dict[tuple[str, str], list[str]] = {}
    for row in record["rows"]:
        key = row["split"], "with `--matryoshka_dims`" if row["matryoshka"] else "without"
        found.setdefault(key, []).append(" / ".join(f"{value:.1f}" for value in row["metrics"].values()))
    widths = list(dict.fromkeys(row["truncate_dim"] for row in record["rows"]))
    cells = [[f"{split}, {name}", *values] for (split, name), values in found.items()]
    queries = {row["split"]: row["num_queries"] for row in record["rows"]}
    sizes = ", ".join(f"{number} queries of {split}" for split, number in queries.items())
    metrics = " / ".join(record["rows"][0]["metrics"])
    return table([metrics, *(f"{width} dimensions" for width in widths)], cells) + (
        f"\n\nOne seed, {sizes}. `{record['data']}`, then {source(record)}; without: `{record['without']}`;"
        " `contextcir benchmark --truncate_dim`."
    )


def recall_after_stages(row: dict[str, Any]) -> list[str]:
    """Return recall@1 after each stage of ImageScope, as cells of a table."""
    return [f"{row['stages'][stage]['metrics']['recall@1']:.1f}" for stage in STAGES]


def scope_rerank() -> str:
    """What re-ranking adds to the demo model, from `research/bench/imagescope.py`."""
    record = read("imagescope_rerank.json")
    rows = [
        [
            f"all roles wrong in {row['rate']:.0%}" if row["rate"] else "no role wrong",
            *recall_after_stages(row),
            f"{row['stages']['evaluated']['metrics']['recall_subset@1']:.1f}",
            f"{row['per_query']['all']['calls']:.1f}",
            f"{row['per_query']['all']['usd']:.4f}",
        ]
        for row in record["rerank"]["rows"]
    ]
    header = ["", "recall@1 of the model", "verified", "evaluated", "recall_subset@1", "calls a query", "USD a query"]
    return table(header, rows) + (
        f"\n\n{provenance(record)} USD at the prices of {record['price']['model']} for the oracle's tokens."
    )


def scope_errors() -> str:
    """Recall of ImageScope when its roles are wrong, from `research/bench/imagescope.py`."""
    record = read("imagescope_oracle.json")
    rows = [
        [
            f"{row['errs']}, {row['rate']:.0%}" if row["rate"] else "no role",
            *recall_after_stages(row),
            f"{row['per_query']['all']['calls']:.1f}",
        ]
        for row in record["errors"]["rows"]
        if row["rate"] in (0, 0.2)
    ]
    obeyed = record["injection"]["rows"][-1]
    return table(["wrong", *STAGES, "calls a query"], rows) + (
        f"\n\nRecall@1 after each stage. {provenance(record)} With"
        f' "{record["injection"]["order"]}" drawn across every image that is neither a target nor a reference, and a'
        f" verifier and an evaluator that always obey, recall@1 falls to {recall_after_stages(obeyed)[-1]};"
        f" {obeyed['verdicts']['open_flipped']:.0f} % of the rejections are flipped."
    )


def demo() -> str:
    """Say how long `make demo` took."""
    record = read("demo.json")
    where = f"on {record['cores']} CPU cores, commit `{record['commit'][:7]}`"
    return (
        f"`{record['command']}` took {record['seconds'] / 60:.1f} minutes after the install ({where});"
        " `make demo-full` trains a model like the one that ships."
    )


def epochs() -> str:
    """Return the table of the demo by its passes over the triplets, with the intervals of each run."""
    rows, said = [], []
    for number in ("3.5", "12"):
        record = read(f"scenes_epochs/{number}.json")
        own = record["results"][0]
        ends = [(own["metrics"][metric], *own["intervals"][metric]) for metric in METRICS]
        rows.append([f"{number} epochs", *(f"{value:.1f} ({low:.1f} to {high:.1f})" for value, low, high in ends)])
        said.append(f"{number}: {provenance(record)}")
    return table(["the demo, test split", *METRICS], rows) + "\n\nOne seed, 95 % intervals. " + " ".join(said)


def looks() -> str:
    """Say how often the phrases of the demo look at what they name."""
    thing = read("scenes_tiny.json")["grounding"]["thing"]
    return (
        f"The named thing gets more attention than each other one in {thing['choice']:.0f} of 100 cases; random maps"
        f" choose it in {thing['random_choice']:.0f} (`choice` in the JSON, {thing['num_phrases']} phrases)."
    )


def photographs() -> str:
    """Say what a model finds among photographs, and what it started from."""
    record = read("grocery.json")
    found, chance = record["results"][0]["metrics"], record["chance"]
    return (
        f"This model finds a target first for {found['recall@1']:.1f} % of {record['num_queries']:,} texts about"
        f" groceries (by chance {chance['recall@1']:.1f} %). It started from a CLIP of 1.5 million parameters that had"
        " seen nothing but coloured shapes: [how it was made](docs/results.md#real-photographs)."
    )


def results() -> str:
    """Return one table of what matters: the trained models on the scenes test set, and the best baseline of CLIP."""
    demo_run, instructed, reranked = (
        read(f"{name}.json") for name in ("scenes_tiny", "scenes_instructcir", "imagescope_rerank")
    )
    own, *baselines = demo_run["results"]
    best = max(baselines, key=lambda result: result["metrics"]["recall@1"])
    scoped = reranked["rerank"]["rows"][0]["stages"]["evaluated"]
    named = {
        f"{best['retriever']} (best baseline)": best,
        "InstructCIR, trained on generated captions": instructed["results"][0],
        "ConText-CIR, the demo, from seed 0": own,
        "the demo, re-ranked by ImageScope with an oracle that never errs": scoped,
    }
    rows = [[name, *(f"{found['metrics'][metric]:.1f}" for metric in METRICS)] for name, found in named.items()]
    others = [read(name)["results"][0]["metrics"] for name in SEEDS]
    rows.insert(3, ["the same from seeds 1 / 2", *(" / ".join(f"{one[m]:.1f}" for one in others) for m in METRICS)])
    rows.append(["chance", *(f"{demo_run['chance'][metric]:.1f}" for metric in METRICS)])
    sizes = f"{demo_run['num_queries']:,} queries, gallery of {demo_run['gallery_size']:,}"
    commands = "; ".join(source(record) for record in (demo_run, instructed, reranked))
    return table(["", *METRICS], rows) + f"\n\n{sizes}, protocol `{demo_run['protocol_id']}`. {commands}."


def mining() -> str:
    """Return the tables of `research.mine_scenes`, and where they come from."""
    record = read("scenes_mining.json")
    queries = f"{record['num_queries']} queries, protocol `{record['protocol_id']}`"
    return "\n\n".join([*mining_parts(record, table), f"{queries}; {source(record)}."])


def galleries() -> str:
    """Return the table of `research.bench.galleries`."""
    record = read("bench_galleries.json")
    how = f"`python -m research.bench.galleries`, {record['machine']}, 2 cores, torch {record['torch']}"
    return f"{goals(record['rows'], 'ratio')}\n\n{how}, at commit `{record['commit'][:7]}`."


def engines() -> str:
    """Return the table of `research.bench.engines`: recall, time and size of the indexes."""
    record = read("bench_engines.json")
    cells = []
    for row in record["rows"]:
        settings = ", ".join(f"{name} {value}" for name, value in row["settings"].items() if value is not None)
        cells.append(
            [f"{row['engine']}{f' ({settings})' if settings else ''}", f"{row['rows']:,}"]
            + [f"{row[f'recall@{k}']:.3f}" for k in (10, 50)]
            + [f"{row['ms_per_query']:.1f}", f"{row['add_seconds'] + row['build_seconds']:.1f}"]
            + [f"{row['megabytes']:,.0f}"]
        )
    header = ["", "rows", "recall@10", "recall@50", "ms a query", "build, s", "MB"]
    dim = record["rows"][0]["dim"]
    how = f"Made-up unit vectors of {dim} dimensions that vary in 96, one thread, {record['machine']}"
    return f"{table(header, cells)}\n\n{how}; `{record['command']}` at commit `{record['commit'][:7]}`."


def served() -> str:
    """Say what a server answers under load, from `research.bench.serve_load`."""
    record = read("bench_serve.json")
    settings, memory = record["settings"], [moment["server_mb"] for moment in record["memory"]]
    answers = f"{record['searches_per_second']:.0f} searches a second, median {record['p50_ms']:.0f} ms, 95 % within"
    answers += f" {record['p95_ms']:.0f} ms, {100 * record['share_429']:.0f} % answered 429"
    return (
        f"{settings['clients']} clients for {settings['seconds']} seconds, on {record['cores']} cores with"
        f" {record['images']:,} images and the demo model: {answers}, {sum(record['errors'].values())} other errors,"
        f" memory from {memory[0]:.0f} to {memory[-1]:.0f} MB (`{record['command']}` at commit"
        f" `{record['commit'][:7]}`)."
    )


PARTS = (
    GROUNDING
    | SPEED_PARTS
    | {
        "served": served,
        "faults": faults,
        "leaderboard": lambda: leaderboard(RESULTS),
        "galleries": galleries,
        "engines": engines,
        "commands": reference.commands,
        "exit_codes": reference.exit_codes,
        "names": reference.names,
        "demo": demo,
        "photographs": photographs,
        "looks": looks,
        "results": results,
        "demo_seeds": demo_seeds,
        "scenes": lambda: measured("scenes_tiny.json"),
        "claims": lambda: claims("scenes_results.md"),
        "instructcir": instructcir,
        "instructcir_claims": lambda: claims("instructcir_results.md"),
        "scope_errors": scope_errors,
        "scope_rerank": scope_rerank,
        "mining": mining,
        "matryoshka": matryoshka,
        "epochs": epochs,
        "full": lambda: measured("scenes_full.json"),
        "grocery": lambda: measured("grocery.json"),
    }
)


def rendered(page: str) -> str:
    """
    Return the text of a page with its marked parts rendered again.

    Raises:
        ValueError: A mark has no function.
    """

    def part(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in PARTS:
            raise ValueError(f"{page} marks the part {name!r}, and PARTS has {', '.join(PARTS)}.")
        return f"<!-- {name} -->\n{PARTS[name]()}\n<!-- /{name} -->"

    text = (ROOT / page).read_text(encoding="utf-8")
    return re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", part, text, flags=re.DOTALL)


def main(argv: Sequence[str]) -> int:
    """Rewrite the pages, or check them. Returns the exit code: 1 if a page is stale."""
    pages = {page: rendered(page) for page in PAGES}
    stale = [page for page, text in pages.items() if text != (ROOT / page).read_text(encoding="utf-8")]
    if "--check" in argv:
        for page in stale:
            print(f"{page} differs from the files in docs/results. Run `python research/render.py`.")
        return int(bool(stale))
    for page in stale:
        (ROOT / page).write_text(pages[page], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
