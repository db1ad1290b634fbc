"""Run a grid of trainings on scenes and render the results, to test the claims of a paper.

    python -m research.ablate                                  # every run without a result, then the page
    python -m research.ablate --parts consistency direction --seeds 0 1 2 --jobs 2
    python -m research.ablate --variants default cc_0 --seeds 3 4
    python -m research.ablate --render                         # only the page, from existing results

A grid is a folder. `base.yaml` holds the options of `contextcir train` that all runs share. Every other file is a
part: a claim and its variants. A variant has a name and the options in which it differs from the base; options under
`then` are the differences of a second stage, which continues from the model of the first. A name has one meaning in
all parts, and is run once.

Each run is trained, measured by `contextcir benchmark` on the split of the base, and kept as one JSON file.
Interrupted runs start again, and so do runs whose options have changed. Grids use the validation split, so nothing is
tuned on the test split.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import torch
from tqdm import tqdm
from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser, as_flags
from contextcir.cli.running import run as run_command
from contextcir.visualization import save_png
from research.ablation.grid import Grid, Run, planned, read_grid, result_of
from research.ablation.page import COLUMNS, LOGGED, columns_of, head_of, page_lines
from research.panels import seed_dots

ROOT = Path(__file__).parents[1]


@dataclass
class Arguments:
    """Options of the grid."""

    _argument_group_name = "Grid"

    grid: str = HfArg(default="configs/scenes_ablation", help="Folder of base.yaml and the parts.")
    parts: list[str] | None = HfArg(default=None, help="Parts, by file name; by default all.")
    variants: list[str] | None = HfArg(default=None, help="Variants to run; by default all of the parts.")
    seeds: list[int] = HfArg(default_factory=lambda: [0, 1, 2], help="Seeds of each variant.")
    jobs: int = HfArg(default=1, help="Parallel runs: one for each core, or for each GPU.")
    runs: str = HfArg(
        default="runs/scenes_ablation", help="Folder of the models, which are removed once they are measured."
    )
    results: str = HfArg(default="docs/results/scenes_ablation", help="Folder of the JSON files.")
    page: str = HfArg(default="docs/scenes_results.md", help="Page to render.")
    render: bool = HfArg(default=False, help="Only render the page.")

    def __post_init__(self):
        if self.jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {self.jobs}.")
        if torch.cuda.is_available() and self.jobs > torch.cuda.device_count():
            raise ValueError(f"There are {torch.cuda.device_count()} GPUs for {self.jobs} jobs. Each job needs one.")

    @property
    def render_command(self) -> str:
        """`str`: The command that renders the page, with the paths that differ from the defaults."""
        names = ("grid", "results", "page")
        paths = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(Arguments, name)}
        return shlex.join(["python", "-m", "research.ablate", *as_flags(paths), "--render"])


def execute(command: list[str], log: Path, gpu: int) -> None:
    """
    Run a command of `contextcir` and append its output to a file.

    Args:
        command (`list[str]`): The command and its options, beginning with `contextcir`.
        log (`Path`): The file.
        gpu (`int`): Number of the GPU to use, if there are any.

    Raises:
        ValueError: It is another command.
        RuntimeError: The command fails; the message has the end of its output.
    """
    if command[0] != "contextcir":
        raise ValueError(f"Expected a command of contextcir, got {shlex.join(command)!r}.")
    own = {"OMP_NUM_THREADS": "1"}
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        own = {"CUDA_VISIBLE_DEVICES": visible.split(",")[gpu] if visible else str(gpu)}
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        done = subprocess.run(
            [sys.executable, "-m", "contextcir.cli.main", *command[1:]],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | own,
        )
    if done.returncode:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise RuntimeError(f"{shlex.join(command)} ended with {done.returncode}; the end of {log}:\n{end}")


def train_commands(run: Run, folder: Path) -> list[list[str]]:
    """Return the command of the training and, if there is one, of a second stage that continues from its model."""
    options = {name: value for name, value in run.options.items() if name != "then"}
    seed, then = ["--seed", str(run.seed)], run.options.get("then")
    stages = [["contextcir", "train", *as_flags(options), *seed, "--output_dir", str(folder)]]
    if then:
        second = options | {"clip_name_or_path": None, "model_name_or_path": folder} | then
        stages.append(["contextcir", "train", *as_flags(second), *seed, "--output_dir", str(folder / "then")])
    return stages


def train_and_measure(run: Run, args: Arguments, gpu: int) -> None:
    """Train and measure one run. Its result appears when it is complete."""
    folder = Path(args.runs, run.name)
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
    folder.parent.mkdir(parents=True, exist_ok=True)
    log, options = folder.with_name(f"{folder.name}.log"), run.options
    log.unlink(missing_ok=True)
    stages = train_commands(run, folder)
    for command in stages:
        execute(command, log, gpu)
    model = folder / "then" if len(stages) > 1 else folder
    metrics = folder / "metrics.json"
    data = ["--benchmark", "scenes", "--data_root", options["benchmark"], "--split", options["benchmark_split"]]
    execute(["contextcir", "benchmark", "--retriever", str(model), *data, "--output", str(metrics)], log, gpu)
    record = json.loads(metrics.read_text(encoding="utf-8"))
    training = json.loads((model / "training.json").read_text(encoding="utf-8"))
    last: dict[str, Any] = next((entry for entry in reversed(training["history"]) if "loss_contrastive" in entry), {})
    record |= {
        "digest": run.digest,
        "variant": run.variant,
        "seed": run.seed,
        "train_command": " && ".join(map(shlex.join, stages)),
        "logged": {name: last[name] for name in LOGGED if name in last},
    }
    target = Path(args.results, f"{run.name}.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(target)
    shutil.rmtree(folder)


def run_grid(args: Arguments, grid: Grid) -> None:
    """Run everything without a result, `jobs` runs at a time. Failed runs are reported when all others are done."""
    for part in grid.parts:
        for path, command in part.prepare.items():
            if not Path(path).exists():
                Path(args.runs).mkdir(parents=True, exist_ok=True)
                execute(shlex.split(command), Path(args.runs, "prepare.log"), 0)
    chosen = grid.variants if args.variants is None else args.variants
    if unknown := [name for name in chosen if name not in grid.variants]:
        raise ValueError(f"{args.grid} has the variants {', '.join(grid.variants)}, got {unknown[0]!r}.")
    runs = [run for run in planned(grid, args.seeds) if run.variant in chosen]
    todo = [run for run in runs if result_of(run, Path(args.results)) is None]
    gpus: Queue[int] = Queue()
    for gpu in range(args.jobs):
        gpus.put(gpu)
    failed: list[str] = []

    def work(run: Run) -> None:
        gpu = gpus.get()
        try:
            train_and_measure(run, args, gpu)
        except RuntimeError as error:
            failed.append(str(error))
        finally:
            gpus.put(gpu)

    with ThreadPoolExecutor(args.jobs) as pool:
        for _ in tqdm(pool.map(work, todo), total=len(todo), desc="runs", unit="run"):
            pass
    if failed:
        raise RuntimeError("\n\n".join(failed))


def render(args: Arguments, grid: Grid) -> None:
    """Write the page and its figures from the existing results."""
    results: dict[str, list[dict[str, Any]]] = {}
    for run in planned(grid, args.seeds):
        if record := result_of(run, Path(args.results)):
            results.setdefault(run.variant, []).append(record)
    page = Path(args.page)
    parts = [part for part in grid.parts if len(results.keys() & part.variants) > 1]  # with something to compare
    figures = {part.name: f"figures/{page.stem}_{part.name}.png" for part in parts}
    head = head_of(page.read_text(encoding="utf-8")) if page.exists() else []
    lines = page_lines(grid, results, args.render_command, figures, head)
    for part in parts:
        shown = {name: list(map(columns_of, results[name])) for name in part.variants if name in results}
        save_png(seed_dots(shown, COLUMNS), page.parent / figures[part.name])
    page.write_text("\n".join(lines), encoding="utf-8")


def main(argv: Sequence[str]) -> None:
    """Run what is missing and render the page."""
    (args,) = CommandParser([Arguments], "python -m research.ablate", __doc__).parse(argv)
    grid = read_grid(Path(args.grid), args.parts)
    if not args.render:
        run_grid(args, grid)
    render(args, grid)
    print(f"Written: {args.page}")


if __name__ == "__main__":
    sys.exit(run_command(main, "ablate"))
