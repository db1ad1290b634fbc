"""Train models with losses on attention maps, and measure what they find and where they look.

    python -m research.grounding                                        # every run without a result
    python -m research.grounding --models text --objectives free --seeds 0
    python -m research.grounding --train_only                           # leave measuring to a later call

A run is a model, an objective and a seed; its result is one JSON file. A run that has a result is skipped, and so is a
training whose model is there: an interrupted call goes on, and several may share the work, each with runs of its own.
"""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run as run_command
from research.grounding.plan import MODELS, OBJECTIVES, PLANNED, SEEDS


@dataclass
class Arguments:
    """Options of the experiment."""

    _argument_group_name = "Experiment"

    models: list[str] = HfArg(default_factory=lambda: list(MODELS), help="Models to train.")
    objectives: list[str] = HfArg(
        default_factory=lambda: list(OBJECTIVES), help="Losses on the maps to train with, those planned for a model."
    )
    seeds: list[int] = HfArg(default_factory=lambda: list(SEEDS), help="Seeds of each model and objective.")
    steps: int = HfArg(default=546, help="Steps of each training, of 128 triplets.")
    triplets: int = HfArg(default=40000, help="Triplets to train on.")
    train_only: bool = HfArg(default=False, help="Train without measuring.")
    data: str = HfArg(default="runs/grounding/data", help="Folder of the drawn data.")
    runs: str = HfArg(default="runs/grounding", help="Folder of the models.")
    results: str = HfArg(default="docs/results/scenes_grounding", help="Folder of the JSON files.")

    def __post_init__(self):
        for name, known in (("models", MODELS), ("objectives", OBJECTIVES)):
            if unknown := [given for given in getattr(self, name) if given not in known]:
                raise ValueError(f"{name} are {', '.join(known)}, got {unknown[0]!r}.")


def train_one(args: Arguments, model: str, objective: str, seed: int) -> Path:
    """Train a run, unless its model is there. Returns its folder."""
    from contextcir.runtime.provenance import code_commit
    from research.grounding.data import triplets, write_json
    from research.grounding.training import Objective, train

    folder = Path(args.runs, f"{model}-{objective}-{seed}")
    if (folder / "run.json").exists():
        return folder
    rows = triplets(args.triplets, Path(args.data))
    what, start, cpu = Objective(**OBJECTIVES[objective]), time.time(), time.process_time()
    losses = train(rows, MODELS[model], what, seed=seed, steps=args.steps, output=folder)
    options = ["--models", model, "--objectives", objective, "--seeds", str(seed)]
    sizes = ["--steps", str(args.steps), "--triplets", str(args.triplets)]
    record = {
        "model": model,
        "objective": objective,
        "seed": seed,
        "fields": MODELS[model],
        "weights": asdict(what),
        "steps": args.steps,
        "triplets": args.triplets,
        "command": shlex.join(["python", "-m", "research.grounding", *options, *sizes]),
        "commit": code_commit(),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "seconds": round(time.time() - start, 1),
        "losses": losses,
    }
    write_json(folder / "run.json", record)
    return folder


def main(argv: Sequence[str]) -> None:
    """Train and measure what has no result yet."""
    (args,) = CommandParser([Arguments], "python -m research.grounding", __doc__).parse(argv)
    from research.grounding.data import write_json
    from research.grounding.measuring import measure_run

    for seed, objective, model in product(args.seeds, args.objectives, args.models):
        if objective not in PLANNED[model]:
            continue
        result = Path(args.results, f"{model}-{objective}-{seed}.json")
        if result.exists():
            continue
        folder = train_one(args, model, objective, seed)
        if not args.train_only:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            write_json(result, record | measure_run(folder, Path(args.data)))
            print(f"Written: {result}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main, "grounding"))
