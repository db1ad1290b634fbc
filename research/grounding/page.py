"""The tables of the experiment on grounding, from its JSON files: what is found, where phrases look, and differences.

Intervals are of the means over queries. The 24 queries of a block share their scenes and texts, so whole blocks are
drawn; and each query counts by its mean over the seeds of training. How seeds differ stands beside it.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contextcir.evaluation.bootstrap import paired_difference
from research.grounding.plan import PLANNED, SEEDS
from research.tables import RESULTS, read, source, table

Runs = dict[tuple[str, str], list[dict[str, Any]]]  # model and objective -> runs, by seed
BLOCK = 24  # queries
METRICS = ("recall@1", "recall@5", "recall@10", "recall_subset@1")
MODELS = {
    "text": "text to image",
    "text+pooled": "text to image, image tokens pooled",
    "image": "image to text",
    "image,1 head": "image to text, 1 head",
    "image,4 heads": "image to text, 4 heads",
    "image,slots": "image to text, slots",
    "image+pooled": "image to text, image tokens pooled",
}
LOSSES = {
    "free": "free",
    "masks": "true masks",
    "thing_masks": "true masks of things",
    "contrast": "phrase contrast",
    "start+contrast": "phrase contrast, from the teacher",
    "start+contrast+cc": "phrase contrast, from the teacher, CC loss",
    "start+context": "phrase contrast in context, from the teacher",
    "teacher": "teacher",
    "teacher+places": "an earlier teacher, that knows location words",
    "teacher+cc": "an earlier teacher as the isolated side of the CC loss",
    "ema+cc": "moving average of the model as the isolated side of the CC loss",
    "cc": "CC loss as published",
    "masks,cc": "true masks and CC loss as published",
    "teacher,cc": "teacher and CC loss as published",
}


def read_runs(folder: Path) -> Runs:
    """Read the results of a folder, in the order of `MODELS` and `LOSSES`."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    runs: Runs = {(model, loss): [] for model in MODELS for loss in LOSSES}
    for record in records:
        runs[record["model"], record["objective"]].append(record)
    return {key: sorted(some, key=lambda run: run["seed"]) for key, some in runs.items() if some}


def grounding_runs(runs: Runs) -> str:
    """Return the table of all models: recall of both parts, and where phrases look."""
    header = ["cross-attention", "maps", "seeds", *METRICS, "longer: recall@1", "recall@10", "choice", "CPU minutes"]
    rows = []
    for (model, loss), some in runs.items():
        iid = [_spread([run["parts"]["iid"]["metrics"][metric] for run in some]) for metric in METRICS]
        longer = [run["parts"]["longer"]["metrics"] for run in some]
        rows.append(
            [
                MODELS[model],
                LOSSES[loss],
                str(len(some)),
                *iid,
                *(_spread([metrics[metric] for metrics in longer]) for metric in ("recall@1", "recall@10")),
                _spread([run["grounding"]["thing"]["choice"] for run in some]),
                f"{statistics.mean(run['cpu_seconds'] for run in some) / 60:.1f}",
            ]
        )
    first = next(iter(runs.values()))[0]
    sizes = {part: found["num_queries"] for part, found in first["parts"].items()}
    commits = ", ".join(sorted({f"`{run['commit'][:7]}`" for some in runs.values() for run in some}))
    return table(header, rows) + (
        f"\n\n{first['steps']:,} steps of 128 triplets, of the first {first['triplets']:,} of the demo; validation:"
        f" {sizes['iid']} queries, and {sizes['longer']} of four or five edits (*longer*). Mean ± standard deviation"
        f" over seeds. `python -m research.grounding` at commits {commits}.{_not_run(runs)}"
    )


def _not_run(runs: Runs) -> str:
    """Return a sentence with the planned runs that have no result."""
    missing = []
    for model, losses in PLANNED.items():
        left = {loss: set(SEEDS) - {run["seed"] for run in runs.get((model, loss), ())} for loss in losses}
        seeds = [f"{LOSSES[loss]} ({', '.join(map(str, sorted(some)))})" for loss, some in left.items() if some]
        if seeds:
            missing.append(f"{MODELS[model]}: {', '.join(seeds)}")
    return f"\n\nNot run, with their seeds: {'; '.join(missing)}." if missing else ""


def grounding_kinds(runs: Runs) -> str:
    """Return the table of where phrases look, by kind, with the nulls."""
    header = ["cross-attention", "maps", "things: choice", "pointing", "places: mass", "backgrounds: mass"]
    rows: list[list[str]] = []
    for (model, loss), some in runs.items():
        cells = [
            _mean([run["grounding"][kind][name] for run in some])
            for kind, name in (("thing", "choice"), ("thing", "pointing"), ("place", "mass"), ("background", "mass"))
        ]
        rows.append([MODELS[model], LOSSES[loss], *cells])
    every = [run["grounding"] for some in runs.values() for run in some]

    def null(of_thing: Sequence[str], other: str) -> list[str]:
        things = [_mean([found["thing"][name] for found in every]) for name in of_thing]
        return things + [_mean([found[kind][other] for found in every]) for kind in ("place", "background")]

    rows += [
        ["random maps of the same models", "", *null(("random_choice", "random_pointing"), "random_mass")],
        ["1 by the number of things; area", "", *null(("choice_chance", "chance"), "chance")],
    ]
    counts = {kind: every[0][kind]["num_phrases"] for kind in ("thing", "place", "background")}
    return table(header, rows) + (
        f"\n\n{counts['thing']:,} phrases for a thing, {counts['place']:,} for a place, {counts['background']:,} for"
        " the background, of the same queries without the longer ones; in percent, means over seeds."
    )


def grounding_differences(runs: Runs) -> str:
    """Return the table of paired differences: each loss less free maps of the same model, and each model with a loss
    less the default model with free maps."""
    header = ["", "seeds", *METRICS, "longer: recall@1", "recall@10"]
    pairs = [((model, loss), (model, "free")) for model, loss in runs if loss != "free"]
    pairs += [((model, loss), ("image", loss)) for model, loss in runs if model.startswith("image,")]
    pairs += [(run, ("text", "free")) for run in runs if run[0] != "text"]
    rows = []
    for of, against in pairs:
        if of not in runs or against not in runs:
            continue
        both = pairs_of_seeds(runs, of, against)
        if not both:
            continue
        cells = [difference(both, "iid", metric) for metric in METRICS]
        cells += [difference(both, "longer", metric) for metric in ("recall@1", "recall@10")]
        name = f"{MODELS[of[0]]}: {LOSSES[of[1]]} less free"
        if of[0] != against[0]:
            name = f"{MODELS[of[0]]}, {LOSSES[of[1]]}, less {MODELS[against[0]]}, {LOSSES[against[1]]}"
        rows.append([name, str(len(both)), *cells])
    return table(header, rows) + (
        "\n\nPoints, with 95 % intervals over queries, paired; bold where the interval leaves out 0. Whole blocks of"
        f" {BLOCK} queries are drawn, which share their scenes and texts; each query counts by its mean over seeds."
    )


def pairs_of_seeds(
    runs: Runs, of: tuple[str, str], against: tuple[str, str] | Runs
) -> list[tuple[dict[str, Any], Any]]:
    """Return the runs of one kind, each with that of the same seed of another kind, or of the same kind among other
    runs."""
    base = {run["seed"]: run for run in (runs[against] if isinstance(against, tuple) else against[of])}
    return [(run, base[run["seed"]]) for run in runs[of] if run["seed"] in base]


def difference(both: Sequence[tuple[dict[str, Any], dict[str, Any]]], part: str, metric: str) -> str:
    """Return the paired difference of runs, each with the one of the same seed that it is compared with."""
    of, against = ([_blocks(pair[side], part, metric) for pair in both] for side in (0, 1))
    found = paired_difference([np.mean(against, axis=0)], [np.mean(of, axis=0)])
    text = f"{found['difference']:+.1f} ({found['low']:+.1f} to {found['high']:+.1f})"
    return f"**{text}**" if found["low"] > 0 or found["high"] < 0 else text


def _blocks(run: dict[str, Any], part: str, metric: str) -> np.ndarray:
    """Return the mean of each block of queries, in percent."""
    hits = np.array([int(digit) for digit in run["parts"][part]["hits"][metric]], dtype=float)
    return 100 * hits.reshape(-1, BLOCK).mean(axis=1)


def grounding_steps(short: Runs, long: Runs) -> str:
    """Return the table of runs that were also made with more steps, and what a teacher then brings."""
    header = ["cross-attention", "maps", "steps", "seeds", *METRICS, "longer: recall@1", "recall@10", "choice"]
    rows = []
    for kind in long:
        for some in (runs[kind] for runs in (short, long) if kind in runs):
            longer = [run["parts"]["longer"]["metrics"] for run in some]
            cells = [_spread([run["parts"]["iid"]["metrics"][metric] for run in some]) for metric in METRICS]
            cells += [_spread([metrics[metric] for metrics in longer]) for metric in ("recall@1", "recall@10")]
            cells += [_spread([run["grounding"]["thing"]["choice"] for run in some])]
            minutes = f"{statistics.mean(run['cpu_seconds'] for run in some) / 60:.1f}"
            rows.append([MODELS[kind[0]], LOSSES[kind[1]], f"{some[0]['steps']:,}", str(len(some)), *cells, minutes])
    parts = [table([*header, "CPU minutes"], rows)]
    if ("image", "teacher") in long:
        parts.append(f"{MODELS['image']}, {long['image', 'teacher'][0]['steps']:,} steps: {_later_gains(long)}.")
    redrawn = [run["redrawn"]["recall@1"] for some in long.values() for run in some if "redrawn" in run]
    commits = ", ".join(sorted({f"`{run['commit'][:7]}`" for some in long.values() for run in some}))
    parts.append(
        "Where each query is its target, drawn anew with other jitter, light and noise and embedded as a gallery image"
        f" is, recall@1 is {min(redrawn):.0f} to {max(redrawn):.0f}. The longer runs:"
        f" {source(next(iter(long.values()))[0])} and the like, at commits {commits}."
    )
    return "\n\n".join(parts)


def grounding_triplets(long: Runs, more: Runs) -> str:
    """Return what more triplets bring in as many steps."""
    both = pairs_of_seeds(more, ("image", "free"), long)
    of, against = both[0]
    passes = 128 * against["steps"] / against["triplets"]
    gains = ", ".join(f"{metric} {difference(both, 'iid', metric)}" for metric in METRICS)
    return (
        f"Nor do more triplets: {of['triplets']:,} of them in {of['steps']:,} steps, each seen once, less"
        f" {against['triplets']:,} seen {passes:.0f} times (image to text, free, one seed): {gains}; longer"
        f" compositions: recall@1 {difference(both, 'longer', 'recall@1')}. {source(of)}."
    )


def _later_gains(long: Runs) -> str:
    both = pairs_of_seeds(long, ("image", "teacher"), ("image", "free"))
    gains = [f"{metric} {difference(both, 'iid', metric)}" for metric in METRICS]
    gains += [f"longer compositions: {metric} {difference(both, 'longer', metric)}" for metric in ("recall@10",)]
    return f"teacher less free, {len(both)} seeds, {', '.join(gains)}"


def grounding_worth(runs: Runs, long: Runs) -> str:
    """Return what grounding is worth in a few sentences, for the README."""

    def gain(runs: Runs, loss: str, part: str = "iid", metric: str = "recall@1") -> str:
        both = pairs_of_seeds(runs, ("image", loss), ("image", "free"))
        found = difference(both, part, metric).replace("*", "")
        return f"{found.replace('(', 'points (95 % interval ')[:-1]}, {len(both)} seeds)"

    masks, teacher = (gain(runs, loss) for loss in ("masks", "teacher"))
    later, composed = gain(long, "teacher"), gain(long, "teacher", "longer", "recall@10")
    times = long["image", "teacher"][0]["steps"] / runs["image", "teacher"][0]["steps"]
    return (
        "The concept-consistency loss as published finds no more than training without it on these data, and its noun"
        " phrases look at what they name no more often than by chance."
        f" Phrases that are shown by true masks where to look are worth having: recall@1 {masks}, with image tokens as"
        f" the queries of the cross-attention. A teacher without masks, learned from phrases and images alone, keeps"
        f" most of that in a short training, {teacher}, and less in one of {times:.1f} times as many steps, {later};"
        f" compositions of four or five edits it then finds more often among the first ten, {composed}"
        " ([how it was measured]"
        "(docs/scenes_results.md#where-phrases-look-and-what-that-is-worth))."
    )


def grocery_grounding() -> str:
    """Return what the teacher and its maps do on the photographs of groceries."""
    record = read("grocery_grounding.json")
    found, runs = record["found"], record["runs"].items()
    groups = {"with its maps": "weight 1,", "without": "weight 0,"}
    some = {name: [run["metrics"] for key, run in runs if key.startswith(start)] for name, start in groups.items()}
    names = (*METRICS, "map@10")
    rows = [[name, *(_spread([one[metric] for one in metrics]) for metric in names)] for name, metrics in some.items()]
    seeds = len(some["without"])
    return (
        f"The teacher of phrases learns something here too: {found['found_in_batch']:.1%} of the phrases find their"
        f" triplet in a batch of 64, by chance {found['by_chance']:.1%}. Trainings with and without its maps, {seeds}"
        " seeds each, image tokens as the queries, 6 epochs, measured on the validation split (mean ± standard"
        f" deviation):\n\n{table(['', *names], rows)}\n\n{source(record)}."
    )


def grounding_choice(long: Runs) -> str:
    """Say how often the named thing is chosen, with a teacher and without."""
    chosen = {
        loss: statistics.mean(run["grounding"]["thing"]["choice"] for run in long["image", loss])
        for loss in ("teacher", "free")
    }
    return (
        f"On scenes, the named thing is chosen in {chosen['teacher']:.0f} of 100 cases instead of {chosen['free']:.0f}"
        f" ({len(long['image', 'teacher'])} seeds). Short trainings find more in the first place; longer ones find"
        " more of the compositions of many edits among the first ten:"
        " [measured](scenes_results.md#where-phrases-look-and-what-that-is-worth)."
    )


def _mean(numbers: Sequence[float]) -> str:
    return f"{statistics.mean(numbers):.0f}" if statistics.mean(numbers) >= 20 else f"{statistics.mean(numbers):.1f}"


def _spread(numbers: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.1f}{deviation}"


PARTS = {
    "grounding_runs": lambda: grounding_runs(read_runs(RESULTS / "scenes_grounding")),
    "grounding_differences": lambda: grounding_differences(read_runs(RESULTS / "scenes_grounding")),
    "grounding_steps": lambda: grounding_steps(
        read_runs(RESULTS / "scenes_grounding"), read_runs(RESULTS / "scenes_steps")
    ),
    "grounding_triplets": lambda: grounding_triplets(
        read_runs(RESULTS / "scenes_steps"), read_runs(RESULTS / "scenes_triplets")
    ),
    "grocery_grounding": grocery_grounding,
    "grounding_choice": lambda: grounding_choice(read_runs(RESULTS / "scenes_steps")),
    "grounding_worth": lambda: grounding_worth(
        read_runs(RESULTS / "scenes_grounding"), read_runs(RESULTS / "scenes_steps")
    ),
    "grounding_kinds": lambda: grounding_kinds(read_runs(RESULTS / "scenes_grounding")),
}
