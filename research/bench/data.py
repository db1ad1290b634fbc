"""What a training step waits for its data: steps fed from Parquet files against steps on batches that lie in memory.

    python -m research.bench.data --data data/scenes/triplets             # CPU, about 3 minutes
    python -m research.bench.data --data data/scenes/triplets --device cuda

Both variants take the same steps of the same trainer and alternate; the medians of `--repeats` rounds are compared.
Time is wall time on all cores, since the loader's process works on those that are idle. With `encoded` images come
from what the resting encoder has made of them, else their files are read, decoded and encoded in every step.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from contextcir.data.triplets import load_triplets
from contextcir.runtime.provenance import code_commit
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor


def build_trainer(clip: str, triplets, args, output: str, encoded: bool) -> CIRTrainer:
    """That of `configs/scenes_tiny.yaml`, as far as a step's work depends on it."""
    model = ContextCIRModel.from_clip_pretrained(clip, fusion_num_layers=1)
    options = CIRTrainingArguments(
        output_dir=output,
        use_cpu=args.device == "cpu",
        per_device_train_batch_size=args.batch_size,
        train_sampling_strategy="sequential",
        freeze_vision=True,
        encode_images_once=encoded,
        cc_form="contrastive",
        isolated_grad=True,
        learning_rate=1e-4,
        max_steps=args.steps,
        dataloader_num_workers=args.workers,
        dataloader_persistent_workers=args.workers > 0,
        dataloader_pin_memory=args.device != "cpu",
        report_to="none",
    )
    processor = ContextCIRProcessor.from_pretrained(clip)
    trainer = CIRTrainer(model, options, train_dataset=triplets, processing_class=processor)
    trainer.create_optimizer_and_scheduler(args.steps)
    trainer.current_gradient_accumulation_steps = 1  # which `train` would set
    return trainer


def take_steps(trainer: CIRTrainer, batches: Iterable[dict], count: int) -> dict[str, float]:
    """Seconds of a number of training steps, the seconds of them spent waiting for a batch, and images seen."""
    model = trainer.model.train()
    batches, waited, images = iter(batches), 0.0, 0
    next(batches)  # the loader's processes have started
    begin = time.perf_counter()
    for _ in range(count):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        images += int(batch["target_index"].max()) + 1
        trainer.training_step(model, dict(batch))
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
    if trainer.args.device.type != "cpu":
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - begin, "waited": waited, "images": images}


def measure(trainer: CIRTrainer, args) -> dict[str, Any]:
    """Alternates both variants."""
    loader = trainer.get_train_dataloader()
    in_memory = list(islice(loader, args.steps + 1))
    rounds: dict[str, list] = {"files": [], "memory": []}
    for _ in range(args.repeats + 1):
        rounds["files"].append(take_steps(trainer, loader, args.steps))
        rounds["memory"].append(take_steps(trainer, in_memory, args.steps))
    found = {
        name: {key: statistics.median(one[key] for one in some[1:]) for key in some[0]}
        for name, some in rounds.items()
    }
    files = found["files"]
    return {
        "rate": statistics.median(
            memory["seconds"] / files["seconds"]
            for files, memory in zip(rounds["files"][1:], rounds["memory"][1:], strict=True)
        ),
        "images_per_second": files["images"] / files["seconds"],
        "share_waiting": files["waited"] / files["seconds"],
        "seconds_per_step": files["seconds"] / args.steps,
    }


def main(argv=None) -> dict:
    """Measures both ways to feed images; returns what is written as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/scenes/triplets", help="triplets, as for train.py")
    parser.add_argument("--clip", default="checkpoints/scenes-clip-tiny", help="CLIP model to start from")
    parser.add_argument("--device", default="cpu", help="`cpu` or `cuda`")
    parser.add_argument("--batch-size", type=int, default=128, help="triplets of a step")
    parser.add_argument("--steps", type=int, default=12, help="steps of a round")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of which the median is taken")
    parser.add_argument("--workers", type=int, default=1, help="processes of the loader")
    parser.add_argument("--output", default="docs/results/bench_data.json", help="where to write the numbers")
    args = parser.parse_args(argv)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - args.workers))
    triplets = load_triplets(args.data, f"train[:{args.batch_size * (args.steps + 1)}]")
    rows = []
    for encoded in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(build_trainer(args.clip, triplets, args, folder, encoded), args)
        rows.append({"encoded": encoded, **found, "met": found["rate"] >= 0.9})
        print(
            f"{'encoded once' if encoded else 'read in every step':<20}{found['rate']:>6.0%} of the rate in memory,"
            f" {found['images_per_second']:,.0f} images/s, {found['share_waiting']:.0%} of the time waiting",
            flush=True,
        )
    machine = platform.machine() if args.device == "cpu" else torch.cuda.get_device_name()
    settings = {name: getattr(args, name) for name in ("device", "batch_size", "steps", "repeats", "workers")}
    result = {
        **settings,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "machine": machine,
        "commit": code_commit(),
        "rows": rows,
    }
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(result, indent=2) + "\n")
    return result


if __name__ == "__main__":
    main()
