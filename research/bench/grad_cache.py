"""Memory and time of GradCache on ViT-B/32 shapes with random weights, as JSON.

    python -m research.bench.grad_cache                  # CPU, one thread: about 20 minutes
    python -m research.bench.grad_cache --device cuda    # wall seconds
    python -m research.bench.grad_cache --quick          # tiny shapes: a test run

A step is forward and backward of both losses, without an optimizer. Each peak of memory is that of a process of its
own, its batch included. Time is compared at `--timed-batch`, since the plain step of the large batch does not fit into
the memory of most machines. The variants alternate, after one round to warm up, and medians are compared. Their
gradients must agree to 1e-4 of the norm.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from contextcir.training.grad_cache import cached_loss
from contextcir.training.losses import concept_consistency_loss, contrastive_loss
from research.bench.batches import random_batch
from research.bench.contextcir_steps import CONCEPT_WEIGHT, Batch, build_model, step
from research.bench.measuring import compare, environment, goal_row, in_child, peak_memory, print_goals, write_json

NUM_PHRASES = 3


def step_in_chunks(model: Any, batch: Batch, chunk: int) -> None:
    """Run the step of [`step`] in chunks."""
    model.zero_grad()
    texts = len(batch["input_ids"])

    def of_maps(outputs: Any, part: Batch) -> torch.Tensor:
        maps = (outputs.context_attentions, outputs.isolated_attentions)
        return CONCEPT_WEIGHT * concept_consistency_loss(*maps, part["phrase_sample"], texts).loss

    cached_loss(
        batch,
        chunk,
        encode=lambda inputs: model(**inputs),
        contrastive=lambda whole: contrastive_loss(
            whole.query_embeds, whole.target_embeds, whole.reference_embeds, whole.logit_scale
        ),
        of_maps=of_maps,
        backward=torch.Tensor.backward,
    ).backward()


def build(batch_size: int, args: argparse.Namespace) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return a model and a batch of random images and texts."""
    torch.set_num_threads(args.threads)
    model = build_model(args.quick).train().to(args.device)
    return model, random_batch(model, batch_size, NUM_PHRASES, args.device)


def send_peak(batch_size: int, chunk: int | None, args: argparse.Namespace, connection: Connection) -> None:
    """Take one step, and send the peak memory of this process in MB."""
    model, batch = build(batch_size, args)
    step(model, batch, True) if chunk is None else step_in_chunks(model, batch, chunk)
    connection.send(peak_memory(args.device))


def gradients_of(model: Any, take: Callable[[], None]) -> torch.Tensor:
    """Return the gradients of a step as one vector."""
    take()
    return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Measure, print the rows and write them. Returns what is written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--timed-batch", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny shapes")
    parser.add_argument("--output", default="docs/results/bench_grad_cache.json")
    args = parser.parse_args(argv)

    small = in_child(send_peak, args.chunk, None, args)
    large = in_child(send_peak, args.batch, args.chunk, args)
    of_chunks = f"batch {args.batch} in chunks of {args.chunk}"
    rows = [goal_row(f"peak memory, {of_chunks} / batch {args.chunk}", large / small, 1.25, megabytes=[large, small])]
    print_goals(rows)
    model, batch = build(args.timed_batch, args)

    def at_once() -> None:
        step(model, batch, True)

    def in_chunks() -> None:
        step_in_chunks(model, batch, args.chunk)

    expected = gradients_of(model, at_once)
    difference = ((gradients_of(model, in_chunks) - expected).norm() / expected.norm()).item()
    del expected
    plain, cached = compare(at_once, in_chunks, args.repeats, args.device)
    timed = f"batch {args.timed_batch} in chunks of {args.chunk}"
    rows += [
        goal_row(f"time, {timed} / at once", cached / plain, 1.35, seconds=[cached, plain]),
        goal_row(f"difference of gradients, {timed} / at once, of their norm", difference, 1e-4),
    ]
    print_goals(rows[1:])
    result = {
        "command": "python -m research.bench.grad_cache",
        "device": args.device,
        "threads": args.threads,
        "repeats": args.repeats,
        **environment(args.device),
        "rows": rows,
    }
    write_json(result, args.output)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
