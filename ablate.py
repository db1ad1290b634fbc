"""Run a grid of trainings on scenes and render what comes out, to put the claims of a paper to the test.

    python ablate.py                                  # every run that has no result yet, then the page
    python ablate.py --parts consistency direction --seeds 0 1 2 --jobs 2
    python ablate.py --render                         # the page alone, from the results that there are

A grid is a folder: `base.yaml` holds the options of `train.py` that all runs share, every other file a part, that is a
claim and variants (a name and the options in which it differs from the base). A name means one thing in all parts, and
is run once. Each run is trained, measured by `benchmark.py` on the split of the grid's base and kept as one JSON file;
a run that was interrupted starts anew, one whose options have changed since is run again, and nothing is tuned on the
test split, since the grid looks at the other one.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import torch
import yaml
from tqdm import tqdm
from transformers import HfArgumentParser

from contextcir.visualization import save_png, seed_dots

ROOT = Path(__file__).parent
NAME = re.compile(r"[a-z0-9_.+-]+")
COLUMNS = ("recall@1", "recall@10", "recall_subset@1")  # of the benchmark's metrics
GROUNDED = ("pointing", "mass")  # where noun phrases look, of all that denote something
LOGGED = ("context_entropy", "map_diversity")  # of the last training log


@dataclass(frozen=True)
class Part:
    """A claim and what is compared for it."""

    name: str
    title: str
    claim: str
    variants: dict[str, dict[str, Any]]
    verdict: str = ""
    prepare: dict[str, str] = field(default_factory=dict)


@dataclass
class Arguments:
    """What to run, and where it is kept."""

    grid: str = field(default="configs/scenes_ablation", metadata={"help": "Folder of base.yaml and the parts."})
    parts: list[str] | None = field(default=None, metadata={"help": "Parts, by file name; by default all."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of each variant."})
    jobs: int = field(default=1, metadata={"help": "Runs side by side: one a core, or one a GPU."})
    runs: str = field(default="runs/scenes_ablation", metadata={"help": "Folder of the models, removed at the end."})
    results: str = field(default="docs/results/scenes_ablation", metadata={"help": "Folder of the JSON files."})
    page: str = field(default="docs/scenes_results.md", metadata={"help": "Page to render."})
    render: bool = field(default=False, metadata={"help": "Whether only to render the page."})

    def __post_init__(self):
        if self.jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {self.jobs}.")
        if torch.cuda.is_available() and self.jobs > torch.cuda.device_count():
            raise ValueError(f"There are {torch.cuda.device_count()} GPUs for {self.jobs} jobs; give one to each.")


@dataclass(frozen=True)
class Run:
    """One training: a variant and a seed."""

    variant: str
    seed: int
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.variant}-{self.seed}"

    @property
    def digest(self) -> str:
        """Of all options: a result with another one is of another run."""
        return hashlib.sha256(json.dumps([self.options, self.seed], sort_keys=True).encode()).hexdigest()[:16]


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping; anything else is a `ValueError` that names the file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"There is no {path}.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected `key: value` lines, got {type(content).__name__}.")
    return content


def read_grid(folder: Path, names: Sequence[str] | None = None) -> tuple[dict[str, Any], list[Part]]:
    """
    Base options and parts, in the order of their file names.

    Raises:
        ValueError: for a part that does not exist, a key that has no meaning, or one name for two sets of options.
    """
    base = read_yaml(folder / "base.yaml")
    files = {path.stem.partition("_")[2]: path for path in sorted(folder.glob("[0-9]*_*.yaml"))}
    if unknown := [name for name in names or () if name not in files]:
        raise ValueError(f"{folder} has the parts {', '.join(files)}, got {unknown[0]!r}.")
    parts = []
    for name, path in files.items():
        try:
            parts.append(Part(name, **read_yaml(path)))
        except TypeError as error:
            raise ValueError(f"{path}: expected title, claim, variants, verdict and prepare ({error}).") from error
    meaning: dict[str, dict] = {}
    for part in parts:
        for variant, options in part.variants.items():
            if not NAME.fullmatch(variant):
                raise ValueError(
                    f"{part.name}: a variant is called by small letters, digits and _.+-, got {variant!r}."
                )
            if meaning.setdefault(variant, options) != options:
                raise ValueError(f"{part.name}: {variant!r} is {options}, and elsewhere {meaning[variant]}.")
    return base, [part for part in parts if names is None or part.name in names]


def planned(base: dict[str, Any], parts: Sequence[Part], seeds: Sequence[int]) -> list[Run]:
    """Every run once, all variants of the first seed before the second: an interrupted grid can be read early."""
    variants = {name: options for part in parts for name, options in part.variants.items()}
    return [Run(name, seed, _given(base | options)) for seed in seeds for name, options in variants.items()]


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Without those that are null, by which a variant takes an option of the base back."""
    return {name: value for name, value in options.items() if value is not None}


def result_of(run: Run, folder: Path) -> dict[str, Any] | None:
    """The finished result of a run, if there is one of these very options."""
    path = folder / f"{run.name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return record if record.get("digest") == run.digest else None


def flags(options: dict[str, Any]) -> list[str]:
    """Options as arguments of a command."""
    found = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        found += [f"--{name}", *(str(value).lower() if isinstance(value, bool) else str(value) for value in values)]
    return found


def execute(command: list[str], log: Path, gpu: int) -> None:
    """Runs a command of this project with its output in a file; an error shows the end of it."""
    own = {"OMP_NUM_THREADS": "1"}
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        own = {"CUDA_VISIBLE_DEVICES": visible.split(",")[gpu] if visible else str(gpu)}
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=os.environ | own
        )
    if done.returncode:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise RuntimeError(f"python {shlex.join(command)} ended with {done.returncode}; {log} ends:\n{end}")


def measure(run: Run, args: Arguments, gpu: int) -> None:
    """Trains and measures one run, and keeps its result in one step."""
    folder = Path(args.runs, run.name)
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run has left
    folder.parent.mkdir(parents=True, exist_ok=True)
    log, options = folder.with_suffix(".log"), dict(run.options)
    log.unlink(missing_ok=True)
    train = ["train.py", *flags(options), "--seed", str(run.seed), "--output_dir", str(folder)]
    execute(train, log, gpu)
    metrics = folder / "metrics.json"
    what = ["--benchmark", "scenes", "--data-root", options["benchmark"], "--split", options["benchmark_split"]]
    execute(["benchmark.py", "--retriever", str(folder), *what, "--output", str(metrics)], log, gpu)
    record = json.loads(metrics.read_text(encoding="utf-8"))
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    last = next((entry for entry in reversed(training["history"]) if "loss_contrastive" in entry), {})
    record |= {
        "digest": run.digest,
        "variant": run.variant,
        "seed": run.seed,
        "train_command": shlex.join(train),
        "logged": {name: last[name] for name in ("loss_contrastive", *LOGGED) if name in last},
    }
    target = Path(args.results, f"{run.name}.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(target)
    shutil.rmtree(folder)


def run_grid(args: Arguments, base: dict[str, Any], parts: Sequence[Part]) -> None:
    """Runs what has no result, `jobs` at a time. One that fails is named at the end, when all others are through."""
    for part in parts:
        for path, command in part.prepare.items():
            if not Path(path).exists():
                Path(args.runs).mkdir(parents=True, exist_ok=True)
                execute(shlex.split(command), Path(args.runs, "prepare.log"), 0)
    todo = [run for run in planned(base, parts, args.seeds) if result_of(run, Path(args.results)) is None]
    gpus: Queue[int] = Queue()
    for gpu in range(args.jobs):
        gpus.put(gpu)
    failed = []

    def work(run: Run) -> None:
        gpu = gpus.get()
        try:
            measure(run, args, gpu)
        except RuntimeError as error:
            failed.append(str(error))
        finally:
            gpus.put(gpu)

    with ThreadPoolExecutor(args.jobs) as pool:
        for _ in tqdm(pool.map(work, todo), total=len(todo), desc="runs", unit="run"):
            pass
    if failed:
        raise RuntimeError("\n\n".join(failed))


def columns_of(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of one result that the page shows."""
    metrics, grounding = record["results"][0]["metrics"], record.get("grounding", {}).get("all", {})
    return {
        **{name: metrics[name] for name in COLUMNS},
        **{name: grounding.get(name) for name in GROUNDED},
        **{name: record["logged"].get(name) for name in LOGGED},
    }


def spread(numbers: Sequence[float | None], digits: int = 1) -> str:
    """Mean and standard deviation; a dash where there is nothing."""
    known = [number for number in numbers if number is not None]
    if not known:
        return "–"
    deviation = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{deviation}"


def part_of_page(part: Part, results: dict[str, list[dict[str, Any]]], figure: str) -> list[str]:
    """Claim, table and figure of a part."""
    lines = [f"## {part.title}", "", part.claim.strip(), ""]
    columns = (*COLUMNS, *GROUNDED, *LOGGED)
    header = ["", "seeds", *(name if "@" in name else name.replace("_", " ") for name in columns)]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" + "---:|" * (len(header) - 1)]
    for variant, options in part.variants.items():
        found = [columns_of(record) for record in results.get(variant, [])]
        cells = [spread([row[name] for row in found], 2 if name in LOGGED else 1) for name in columns]
        what = ", ".join(f"{key} {value}" for key, value in options.items() if value is not None)
        label = f"`{variant}`" + (f": {what}" if what else "")
        lines.append("| " + " | ".join([label, str(len(found)), *cells]) + " |")
    return [*lines, "", f"![{part.title}]({figure})", "", part.verdict.strip(), ""]


def render(args: Arguments, base: dict[str, Any], parts: Sequence[Part]) -> None:
    """Writes the page and its figures from the results that there are."""
    results: dict[str, list[dict[str, Any]]] = {}
    for run in planned(base, parts, args.seeds):
        if record := result_of(run, Path(args.results)):
            results.setdefault(run.variant, []).append(record)
    if not results:
        raise ValueError(f"{args.results} has no result of this grid. Run it without --render.")
    records = [record for some in results.values() for record in some]
    if len(protocols := {record["protocol_id"] for record in records}) > 1:
        raise ValueError(f"{args.results} holds results of {' and '.join(sorted(protocols))}. Remove the old ones.")
    commits = ", ".join(sorted({f"`{(record['commit'] or 'unknown')[:7]}`" for record in records}))
    page = Path(args.page)
    lines = [
        "# What the claims are worth on scenes",
        "",
        f"{len(records)} trainings of the options in `{args.grid}/base.yaml`, each with what its line names changed;"
        f" measured on the {base['benchmark_split']} split ({records[0]['num_queries']} queries, gallery of"
        f" {records[0]['gallery_size']:,}, protocol `{records[0]['protocol_id']}`), mean ± standard deviation over"
        f" seeds. Commits {commits}; rendered by"
        " `python ablate.py --render`.",
        "",
    ]
    for part in parts:
        figure = Path("figures", f"scenes_{part.name}.png")
        shown = {name: [columns_of(record) for record in results.get(name, [])] for name in part.variants}
        save_png(seed_dots(shown, COLUMNS), page.parent / figure)
        lines += part_of_page(part, results, figure.as_posix())
    page.write_text("\n".join(lines), encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Runs what is missing and renders the page."""
    parser = HfArgumentParser(Arguments, description=__doc__.split("\n")[0])
    (args,) = parser.parse_args_into_dataclasses(sys.argv[1:] if argv is None else argv, look_for_args_file=False)
    base, parts = read_grid(Path(args.grid), args.parts)
    if not args.render:
        run_grid(args, base, parts)
    render(args, base, parts)
    print(f"Written: {args.page}")


if __name__ == "__main__":
    main()
