"""The demo: search with a model that ships, then train one like it for a few minutes, and compare the two.

    python -m research.demo                      # `make demo`
    python -m research.demo --triplets 640       # a test run

Each phase has a line with the time that is left. What its commands print is in `runs/demo-short/log.txt`.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CLIP, SHIPPED = "checkpoints/scenes-clip-tiny", "checkpoints/scenes-contextcir-tiny"
TEACHER = "--steps 400"  # half as many as by default
DATA, TOUR, RUN = Path("data/scenes_short"), Path("runs/tour"), Path("runs/demo-short")
PICTURES = {
    "retrieval_grid.png": "what both models find",
    "score_margins.png": "how far it sets targets apart from each kind of mistake",
    "text_alone.png": "what the reference image adds to the text",
    "embedding_map.png": "where queries lead",
    "concept_attention.png": "where the phrases of both models look",
    "error_profile.png": "which mistakes they make",
    "training_curves.png": "how they were trained",
}


@dataclass(frozen=True)
class Phase:
    """A part of the demo: what it does, how many seconds it takes on two idle cores, and its commands."""

    title: str
    seconds: float
    commands: tuple[str, ...]


def phases(triplets: int, processes: int) -> list[Phase]:
    """Return the phases for a number of training triplets, on so many processes."""
    several = "--multi_gpu " if processes > 1 else ""  # on CPUs too; accelerate's --cpu would silently start one
    launch = (
        f"accelerate launch {several}--num_processes {processes} --num_cpu_threads_per_process 1 --num_machines 1"
        " --mixed_precision no --dynamo_backend no"
    )
    train = (
        f"{launch} train.py configs/scenes_tiny.yaml --data {DATA}/triplets --benchmark {DATA} --output_dir {RUN}"
        f" --per_device_train_batch_size {128 // processes}"
    )
    measure = f"contextcir benchmark --benchmark scenes --data_root {DATA} --split test --retriever"
    draw = f"contextcir visualize --run {SHIPPED} --compare {RUN} --benchmark scenes --data_root {DATA} --split test"
    return [
        Phase("search with the model that ships", 20, (f"contextcir tour --output {TOUR} --serve false",)),
        Phase(
            f"draw a benchmark and {triplets:,} triplets, find and ground the phrases",
            65,
            (
                f"contextcir data scenes --output {DATA} --num_train {triplets}",
                f"contextcir phrases {DATA}/triplets",
                f"contextcir ground {DATA}/triplets --clip_name_or_path {CLIP} --encode_images_once {TEACHER}",
            ),
        ),
        Phase("train a model from a tiny CLIP", 120, (train,)),
        Phase(
            "measure both models, and draw",
            60,
            (
                f"{measure} {RUN} --baselines --output {RUN}/metrics.json",
                f"{measure} {SHIPPED} --output {RUN}/shipped.json",
                f"{draw} --output {RUN}/figures",
            ),
        ),
    ]


def run(command: str, log: Path) -> None:
    """Run a command. One that fails ends the demo with its last lines."""
    programs = Path(sys.executable).parent
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PATH": f"{programs}:{os.environ['PATH']}"}
    with log.open("a", encoding="utf-8") as file:
        print(f"\n$ {command}", file=file, flush=True)
        done = subprocess.run(shlex.split(command), stdout=file, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        raise SystemExit("\n".join([*last, f"\n`{command}` ended with {done.returncode}. The whole log: {log}"]))


def clock(seconds: float) -> str:
    """Return a duration in words.

    >>> clock(95)
    '1:35 min'
    """
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d} min"


def summary(seconds: float) -> str:
    """Say what was found, what each picture shows, and how to go on."""
    record, shipped = (
        json.loads((RUN / name).read_text(encoding="utf-8")) for name in ("metrics.json", "shipped.json")
    )
    short, *others = (one["metrics"]["recall@1"] for one in record["results"])
    found = [
        f"The model that ships finds the target first in {shipped['results'][0]['metrics']['recall@1']:.1f} % of"
        f" {record['num_queries']} queries, among {record['gallery_size']:,} pictures.",
        f"The one just trained, on less and for less time: {short:.1f} %. The best baseline: {max(others):.1f} %.",
        f"Pictures in {RUN}/figures:",
        *(f"  {name:<24}{what}" for name, what in PICTURES.items()),
        f"Search yourself: contextcir serve {TOUR}/gallery --examples {TOUR}/examples.jsonl",
        f"{clock(seconds)}. `make demo-full` trains one as long as the model that ships.",
    ]
    return "\n".join(found)


def main(argv: Sequence[str]) -> None:
    """Run the demo from a checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triplets", type=int, default=16_000, help="triplets to train on")
    args = parser.parse_args(argv)
    for folder in (TOUR, RUN):
        shutil.rmtree(folder, ignore_errors=True)
    RUN.mkdir(parents=True)
    log, began = RUN / "log.txt", time.perf_counter()
    todo = phases(args.triplets, min(2, os.cpu_count() or 1))
    for number, phase in enumerate(todo):
        expected, elapsed = sum(one.seconds for one in todo[:number]), time.perf_counter() - began
        slower = max(1.0, elapsed / expected) if expected else 1.0  # than two idle cores
        left = slower * sum(one.seconds for one in todo[number:])
        print(f"{number + 1}/{len(todo)}  {phase.title:<68} about {clock(left)} left", flush=True)
        for command in phase.commands:
            run(command, log)
        if number == 0:
            print(f"     The first pictures: {TOUR}/search_1.html to search_3.html", flush=True)
    print(f"\n{summary(time.perf_counter() - began)}")


if __name__ == "__main__":
    main(sys.argv[1:])
