"""The time that a training step waits for data, and how many images a second the loader can give.

    python -m research.bench.data --data data/scenes/triplets             # CPU, about 4 minutes
    python -m research.bench.data --data data/scenes/triplets --device cuda

Batches from Parquet files are compared with batches in memory. Both variants take the same steps with the same
trainer, and alternate. The medians of `--repeats` rounds are compared. Time is wall time on all cores, since the
loader's process uses idle ones. With `encoded`, the outputs of the frozen image encoder are read; otherwise image
files are read, decoded and encoded in every step.

The ceiling is what a GPU that takes no time would get: batches are read, decoded and preprocessed, and a short sleep
stands in for the step. It is measured for several numbers of loader processes, with the scenes of the data and with
photographs (JPEG, 640 x 480, made of coloured noise) at CLIP's 224 pixels.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from contextcir.data.triplets import load_triplets
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import CIRImageProcessor, ContextCIRModel, ContextCIRProcessor
from research.bench.measuring import environment, write_json

SIDES = ("reference", "target")
SLEEP = 0.005  # seconds, in place of a step


def build_trainer(
    triplets: Any,
    args: argparse.Namespace,
    output: str,
    *,
    negatives: Any = None,
    image_processor: Any = None,
    **options: Any,
) -> CIRTrainer:
    """Return a trainer with the options that count for a step with the concept-consistency loss, and others."""
    model = ContextCIRModel.from_clip_pretrained(args.clip, fusion_num_layers=1)
    options = {
        "use_cpu": args.device == "cpu",
        "per_device_train_batch_size": args.batch_size,
        "train_sampling_strategy": "sequential",
        "freeze_vision": True,
        "cc_form": "contrastive",
        "isolated_grad": True,
        "learning_rate": 1e-4,
        "max_steps": args.steps,
        "dataloader_num_workers": args.workers,
        "dataloader_persistent_workers": args.workers > 0,
        "dataloader_pin_memory": args.device != "cpu",
        "report_to": "none",
    } | options
    processor = ContextCIRProcessor.from_pretrained(args.clip)
    processor.image_processor = image_processor or processor.image_processor
    arguments = CIRTrainingArguments(output_dir=output, **options)
    trainer = CIRTrainer(model, arguments, train_dataset=triplets, processing_class=processor, negatives=negatives)
    trainer.create_optimizer_and_scheduler(args.steps)
    trainer.current_gradient_accumulation_steps = 1  # set by `train`
    return trainer


def take_steps(trainer: CIRTrainer, batches: Iterable[dict], count: int) -> dict[str, float]:
    """Take training steps. Returns their `seconds`, the seconds `waited` for batches, and the number of `images`."""
    model = trainer.model.train()
    source, waited, images = iter(batches), 0.0, 0
    next(source)  # starts the loader's processes
    begin = time.perf_counter()
    for _ in range(count):
        asked = time.perf_counter()
        batch = next(source)
        waited += time.perf_counter() - asked
        images += int(batch["target_index"].max()) + 1
        trainer.training_step(model, dict(batch))
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
    if trainer.args.device.type != "cpu":
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - begin, "waited": waited, "images": images}


def measure(trainer: CIRTrainer, args: argparse.Namespace) -> dict[str, Any]:
    """Measure both variants in turns."""
    loader = trainer.get_train_dataloader()
    in_memory = list(islice(loader, args.steps + 1))
    rounds: dict[str, list[dict[str, float]]] = {"files": [], "memory": []}
    for _ in range(args.repeats + 1):
        rounds["files"].append(take_steps(trainer, loader, args.steps))
        rounds["memory"].append(take_steps(trainer, in_memory, args.steps))
    measured = rounds["files"][1:]  # without the round to warm up
    files = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
    return {
        "rate": statistics.median(
            memory["seconds"] / one["seconds"] for one, memory in zip(measured, rounds["memory"][1:], strict=True)
        ),
        "images_per_second": files["images"] / files["seconds"],
        "share_waiting": files["waited"] / files["seconds"],
        "seconds_per_step": files["seconds"] / args.steps,
    }


def photographs(args: argparse.Namespace) -> datasets.Dataset:
    """Return triplets of distinct photographs, coloured noise in JPEG, which a few files make up."""
    draw = np.random.default_rng(0)

    def photograph() -> bytes:
        noise = Image.fromarray(draw.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        file = io.BytesIO()
        noise.resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        return file.getvalue()

    files = [photograph() for _ in range(32)]
    rows = [
        {
            "id": str(row),
            "modification_text": "add a dog",
            "noun_phrases": [{"text": "a dog", "start": 4, "end": 9}],
            **{f"{side}_id": f"{side} {row}" for side in SIDES},
            **{
                f"{side}_image": {"bytes": files[(row + shift) % 32], "path": None} for shift, side in enumerate(SIDES)
            },
        }
        for row in range(args.batch_size * (args.steps + 1))
    ]
    images = {f"{side}_image": datasets.Image(decode=False) for side in SIDES}
    table = datasets.Dataset.from_list(rows)
    return table.cast(datasets.Features({**table.features, **images}))


def ceilings(name: str, triplets: Any, args: argparse.Namespace, **options: Any) -> Iterator[dict[str, Any]]:
    """Measure the images a second that the loader gives, by the number of its processes."""
    for workers in args.ceiling_workers:
        with tempfile.TemporaryDirectory() as folder:
            loading = {"dataloader_num_workers": workers, "dataloader_persistent_workers": workers > 0}
            trainer = build_trainer(triplets, args, folder, **options, **loading)
            loader = trainer.get_train_dataloader()
            rates = [images_per_second(loader, args.steps) for _ in range(args.repeats + 1)][1:]
        yield {"images": name, "workers": workers, "images_per_second": statistics.median(rates)}


def images_per_second(loader: Iterable[dict], count: int) -> float:
    """Read batches, with a sleep in place of a training step."""
    source = iter(loader)
    next(source)  # starts the loader's processes
    begin, images = time.perf_counter(), 0
    for batch in islice(source, count):
        images += len(batch["pixel_values"])
        time.sleep(SLEEP)
    return images / (time.perf_counter() - begin)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure with encoded images and without. Returns the result, as written to JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/scenes/triplets", help="triplets, as for contextcir train")
    parser.add_argument("--clip", default="checkpoints/scenes-clip-tiny", help="CLIP model to start from")
    parser.add_argument("--device", default="cpu", help="`cpu` or `cuda`")
    parser.add_argument("--batch-size", type=int, default=128, help="triplets of a batch")
    parser.add_argument("--steps", type=int, default=12, help="steps of a round")
    parser.add_argument("--repeats", type=int, default=3, help="rounds to take the median of")
    parser.add_argument("--workers", type=int, default=1, help="processes of the loader")
    parser.add_argument("--ceiling-workers", type=int, nargs="+", default=[0, 1, 2], help="the same, for the ceiling")
    parser.add_argument("--threads", type=int, help="CPU threads; by default one for each core without a loader")
    parser.add_argument("--output", default="docs/results/bench_data.json", help="JSON file of the result")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads or max(1, (os.cpu_count() or 1) - args.workers))
    triplets = load_triplets(args.data, f"train[:{args.batch_size * (args.steps + 1)}]")
    rows = []
    for encoded in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(build_trainer(triplets, args, folder, encode_images_once=encoded), args)
        rows.append({"encoded": encoded, **found, "met": found["rate"] >= 0.9})
        print(
            f"{'encoded once' if encoded else 'read in every step':<20}{found['rate']:>6.0%} of the rate in memory,"
            f" {found['images_per_second']:,.0f} images/s, {found['share_waiting']:.0%} of the time waiting",
            flush=True,
        )
    at_224 = ceilings("photographs", photographs(args), args, image_processor=CIRImageProcessor())
    reading = [*ceilings("scenes", triplets, args), *at_224]
    for row in reading:
        print(
            f"{row['images']:<20}{row['workers']} loader processes, {row['images_per_second']:,.0f} images/s at most"
        )
    settings = {name: getattr(args, name) for name in ("device", "batch_size", "steps", "repeats", "workers")}
    result = {
        **settings,
        "cores": os.cpu_count(),
        **environment(args.device),
        "rows": rows,
        "ceilings": reading,
    }
    write_json(result, args.output)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
