"""Speed and memory on ViT-B/32 shapes with random weights, as a table and as JSON.

    python -m research.bench.models                        # CPU, one thread, CPU seconds: about 35 minutes
    python -m research.bench.models --parts instructcir    # of them 10
    python -m research.bench.models --device cuda          # wall seconds
    python -m research.bench.models --quick                # tiny shapes, one repeat: does it run?

Each line compares two variants of the same work. They alternate, after one round to warm up, and the medians of
`--repeats` rounds are compared, so that a busy machine is unfair to both. A training step is forward and backward. The
naive variant of it, `research/bench/contextcir_steps.py`, runs the vision encoder again for every noun phrase and pads
every text to 77 tokens; it must reach the same loss (to 1e-5) and gradients (to 1e-4 of their norm). A step of
InstructCIR is held against one of plain CLIP with the same encoders, images and texts, and that against the operations
of both.
"""

import argparse
import json
import platform
from pathlib import Path

import torch

from contextcir.runtime.provenance import code_commit
from research.bench.contextcir_steps import bench_encoding, bench_training, build_model
from research.bench.instructcir_steps import bench_instructcir
from research.bench.measuring import Report
from research.bench.ranking import bench_loading, bench_ranking
from research.bench.search import bench_search

PARTS = ["contextcir", "instructcir", "search", "ranking"]


def main(argv=None) -> dict:
    """Run everything; returns what is written as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; by default all")
    parser.add_argument("--quick", action="store_true", help="tiny shapes and one repeat")
    parser.add_argument("--device", default="cpu", help="`cpu` or `cuda`")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; CPU seconds are cleanest with one")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of which the median is taken")
    parser.add_argument("--output", default="bench.json", help="where to write the numbers")
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
    settings = {
        "parts": args.parts,
        "quick": args.quick,
        "device": device,
        "threads": args.threads,
        "repeats": repeats,
    }
    machine = platform.machine() if device == "cpu" else torch.cuda.get_device_name()
    commit = code_commit()
    result = {**settings, "torch": torch.__version__, "machine": machine, "commit": commit, "rows": report.rows}
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(result, indent=2) + "\n")
    return result


if __name__ == "__main__":
    main()
