"""Speed and memory on ViT-B/32 shapes with random weights, as a table and as JSON.

    python -m research.bench.models                        # CPU, one thread, CPU seconds: about 35 minutes
    python -m research.bench.models --parts instructcir    # about 10 of them
    python -m research.bench.models --device cuda          # wall seconds
    python -m research.bench.models --quick                # tiny shapes, one repeat: a test run

Each line compares two variants of the same work. They alternate, after one round to warm up, so that a busy machine
slows both. The medians of `--repeats` rounds are compared. A training step is forward and backward. The naive step
(`research/bench/contextcir_steps.py`) runs the vision encoder again for every noun phrase and pads every text to 77
tokens; it must reach the same loss (to 1e-5) and gradients (to 1e-4 of their norm). A step of InstructCIR is compared
with one of plain CLIP with the same encoders, images and texts, by time relative to the number of operations.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from research.bench.contextcir_steps import bench_encoding, bench_training, build_model
from research.bench.instructcir_steps import bench_instructcir
from research.bench.measuring import Report, environment, write_json
from research.bench.ranking import bench_loading, bench_ranking
from research.bench.search import bench_search

PARTS = ["contextcir", "instructcir", "search", "ranking"]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure all parts. Returns the result, as written to JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts to measure; by default all")
    parser.add_argument("--quick", action="store_true", help="tiny shapes and one repeat")
    parser.add_argument("--device", default="cpu", help="`cpu` or `cuda`")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; CPU seconds are most exact with one")
    parser.add_argument("--repeats", type=int, default=5, help="rounds to take the median of")
    parser.add_argument("--output", default="bench.json", help="JSON file of the result")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device, repeats, report = args.device, 1 if args.quick else args.repeats, Report()
    if "contextcir" in args.parts:
        model = build_model(args.quick).to(device)
        bench_training(model.train(), (2,) if args.quick else (8, 16), repeats, device, report)
        model.zero_grad()
        bench_encoding(model.eval(), 4 if args.quick else 32, repeats, device, report)
    if "instructcir" in args.parts:
        bench_instructcir(args.quick, repeats, device, report)
    if "search" in args.parts:
        bench_search(5_000 if args.quick else 123_403, repeats, device, args.threads, report)
    if "ranking" in args.parts and device == "cpu":
        bench_ranking(args.quick, repeats, report)
        bench_loading(report)
    result = {
        "parts": args.parts,
        "quick": args.quick,
        "device": device,
        "threads": args.threads,
        "repeats": repeats,
        **environment(device),
        "rows": report.rows,
    }
    write_json(result, args.output)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
