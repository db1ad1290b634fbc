"""The cost of techniques of training, on the model and the data of the demo, as JSON.

    python -m research.bench.training_steps             # CPU, one thread: about 6 minutes
    python -m research.bench.training_steps --quick     # few steps: a test run

Each line compares two trainers that take steps in turns, on batches in memory, after one round to warm up. The medians
of `--repeats` rounds are compared. Mined negatives are more images: their time is compared with that of the images. A
compiled step is compiled by inductor, in the round to warm up, which takes as many seconds as `compiling` says.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import datasets
import numpy as np
import torch

from contextcir.data.triplets import load_triplets
from contextcir.training.sampling import BatchSampler
from research.bench.data import build_trainer
from research.bench.measuring import Report, compare, environment, write_json

WIDTHS = [128, 64, 32, 16]
MINED = 2  # negatives of a triplet
COMPILER = "inductor"


def stepper(triplets: Any, args: argparse.Namespace, **options: Any) -> tuple[Callable[[], None], float]:
    """Return a function that takes `--steps` training steps, and the images of a batch in the mean."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(triplets, args, folder, **options)
    batches = list(islice(trainer.get_train_dataloader(), args.steps))
    model = trainer.accelerator.prepare_model(trainer.model)

    def take() -> None:
        for batch in batches:
            trainer.training_step(model, dict(batch))
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()

    return take, statistics.mean(len(batch["pixel_values"]) for batch in batches)


def with_negatives(triplets: datasets.Dataset) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Return triplets with targets of others as their negatives, and the images of these."""
    ids = list(triplets["target_id"])
    named = [[ids[(row + 97 * (i + 1)) % len(ids)] for i in range(MINED)] for row in range(len(ids))]
    firsts = sorted({id_: row for row, id_ in reversed(list(enumerate(ids)))}.values())
    images = triplets.select(firsts).select_columns(["target_id", "target_image"])
    return triplets.add_column("negative_ids", named), images.rename_columns(
        {"target_id": "id", "target_image": "image"}
    )


def bench_steps(args: argparse.Namespace, report: Report) -> None:
    """Report steps of two trainers for each technique."""
    triplets = load_triplets(args.data, f"train[:{args.batch_size * (args.steps + 1)}]")
    mined, images = with_negatives(triplets)
    plain, plain_images = stepper(triplets, args)
    taking = partial(compare, repeats=args.repeats, device="cpu")

    seconds = taking(stepper(triplets, args, matryoshka_dims=WIDTHS)[0], plain)
    report.add(f"training step at {len(WIDTHS)} widths / at one", seconds[0] / seconds[1], "<= 1.05", seconds)

    take, num_images = stepper(mined, args, hard_negatives=MINED, negatives=images)
    seconds = taking(take, plain)
    ratio = seconds[0] / seconds[1] / (num_images / plain_images)
    more = {"images": [num_images, plain_images]}
    report.add(f"the same with {MINED} mined negatives a triplet, for each image", ratio, "<= 1.1", seconds, **more)

    take, _ = stepper(triplets, args, torch_compile=True, torch_compile_backend=COMPILER)
    begin = time.perf_counter()
    take()
    compiling = time.perf_counter() - begin
    seconds = compare(take, plain, args.repeats, "wall")
    report.add("training step, compiled / plain", seconds[0] / seconds[1], "", seconds, compiling=compiling)


def bench_sampling(args: argparse.Namespace, report: Report) -> None:
    """Report the seconds that the order of an epoch takes."""
    number, kinds = (10_000, 2) if args.quick else (1_000_000, 50)
    draw = np.random.default_rng(0)
    targets, categories = draw.integers(number // 4, size=number).tolist(), draw.integers(kinds, size=number).tolist()
    sampler = BatchSampler(targets, 512, apart=True, categories=categories)

    begin = time.process_time()
    order = list(sampler)
    seconds = time.process_time() - begin
    name = "order of a million triplets, by category, distinct targets: seconds"
    batches = np.asarray(order).reshape(-1, 512)
    apart = all(len({targets[row] for row in batch}) == 512 for batch in batches[:20])
    report.add(name, seconds, "<= 3", apart=apart)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Measure, print the rows and write them. Returns what is written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/scenes/triplets", help="triplets, as for contextcir train")
    parser.add_argument("--clip", default="checkpoints/scenes-clip-tiny", help="CLIP model to start from")
    parser.add_argument("--batch-size", type=int, default=128, help="triplets of a batch")
    parser.add_argument("--steps", type=int, default=4, help="steps of a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds to take the median of")
    parser.add_argument("--quick", action="store_true", help="two steps of few triplets, one round")
    parser.add_argument("--output", default="docs/results/bench_training_steps.json", help="JSON file of the result")
    args = parser.parse_args(argv)
    if args.quick:
        args.batch_size, args.steps, args.repeats = 4, 2, 1
    args.device, args.workers = "cpu", 0
    torch.set_num_threads(1)
    report = Report()
    bench_sampling(args, report)
    bench_steps(args, report)
    result = {
        "command": "python -m research.bench.training_steps",
        "device": "cpu",
        "threads": 1,
        "batch_size": args.batch_size,
        "repeats": args.repeats,
        **environment("cpu"),
        "rows": report.rows,
    }
    write_json(result, args.output)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
