"""Speed of exported models on a CPU, compared with torch in float32, and what int8 costs in recall.

    python -m research.bench.onnx_speed --model runs/demo --data_root data/scenes --output docs/results/bench_onnx.json
    python -m research.bench.onnx_speed --quick --output bench.json    # tiny shapes: a test run

ViT-B/32 shapes have random weights; the tiny model is `--model`, which is measured on scenes as well. Variants
alternate, and medians of wall time are compared, since torch and onnxruntime have threads of their own.
"""

import argparse
import importlib.metadata
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPImageProcessorPil

from contextcir.benchmarks.registry import load_benchmark
from contextcir.bridges.onnx_encoder import INPUTS, WEIGHTS, OnnxEncoder, open_graph, run_graph
from contextcir.bridges.onnx_export import METHODS, export_onnx
from contextcir.cli.loading import load_model
from contextcir.evaluation.measure import measure
from contextcir.retrieval.dense import DenseRetriever
from contextcir.runtime.locations import shipped
from contextcir.runtime.provenance import code_commit
from modeling_contextcir import ContextCIRConfig, ContextCIRModel, ContextCIRProcessor
from research.bench.measuring import machine_name, write_json

BATCH = 32
LENGTH = 16  # tokens of a text
METRICS = ("recall@1", "recall@5", "recall@10", "recall@50")
CLIP = shipped("checkpoints/scenes-clip-tiny")  # whose tokenizer is used with random weights


def median_seconds(variants: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Run variants in turns, once to warm up. Returns the median wall time of each."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats + 1):
        for name, function in variants.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(some[1:]) for name, some in seconds.items()}


def bench_model(shapes: str, model: Any, folders: Mapping[str, Path], repeats: int) -> dict[str, Any]:
    """Embed batches of images and of queries, with torch and with each of the graphs."""
    size, vocabulary = model.config.vision_config.image_size, model.config.text_config.vocab_size
    torch.manual_seed(0)
    ids = torch.randint(vocabulary - 2, (BATCH, LENGTH))
    inputs = {
        "pixel_values": torch.randn(BATCH, 3, size, size),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }
    found: dict[str, Any] = {"shapes": shapes, "rates": {}, "megabytes": {}}
    for graph in INPUTS:
        some = {name: inputs[name] for name in INPUTS[graph]}
        method = torch.inference_mode()(getattr(model, METHODS[graph]))
        variants: dict[str, Callable[[], Any]] = {"torch fp32": partial(method, **some)}
        for precision, folder in folders.items():
            variants[f"onnx {precision}"] = partial(run_graph, open_graph(folder / graph), some)
        seconds = median_seconds(variants, repeats)
        found["rates"][graph] = {name: BATCH / value for name, value in seconds.items()}
    found["megabytes"] = {
        precision: sum(Path(folder, name).stat().st_size for name in (*INPUTS, WEIGHTS)) / 1e6
        for precision, folder in folders.items()
    }
    return found


def bench_recall(model: Any, processor: Any, folders: Mapping[str, Path], data_root: str) -> dict[str, Any]:
    """Measure the model and its graphs on the test set of scenes."""
    parts = load_benchmark("scenes", data_root, "test")
    retrievers: dict[str, Any] = {"torch fp32": DenseRetriever.from_model(model, processor)}
    retrievers |= {f"onnx {precision}": OnnxEncoder(folder, processor) for precision, folder in folders.items()}
    found: dict[str, Any] = {}
    for name, retriever in retrievers.items():
        record = measure(retriever, parts, name=name)
        found[name] = {metric: record.metrics[metric] for metric in METRICS}
    return {"protocol_id": record.facts["protocol_id"], "num_queries": record.facts["num_queries"], "metrics": found}


def export_both(model: Any, processor: Any, folder: Path, name: str) -> dict[str, Path]:
    """Export a model in both precisions. Returns their folders."""
    folders = {precision: folder / f"{name}-{precision}" for precision in ("fp32", "int8")}
    for precision, output in folders.items():
        export_onnx(model, processor, output, name=name, precision=precision)  # type: ignore[arg-type]
    return folders


def large(quick: bool) -> tuple[Any, Any]:
    """ConText-CIR of ViT-B/32 shapes with random weights, or of the tiny CLIP's, and a processor of its image size."""
    torch.manual_seed(0)
    processor = ContextCIRProcessor.from_pretrained(CLIP)
    if quick:
        return ContextCIRModel.from_clip_pretrained(CLIP), processor
    processor = ContextCIRProcessor(CLIPImageProcessorPil(), processor.tokenizer)
    return ContextCIRModel(ContextCIRConfig()).eval(), processor


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure everything. Returns the result, as written to JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a trained model")
    parser.add_argument("--data_root", help="scenes to measure the model on")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="small shapes and one repeat")
    parser.add_argument("--output", default="bench_onnx.json", help="JSON file of the result")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    repeats = 1 if args.quick else args.repeats
    models = {"ViT-B/32": large(args.quick)}
    if args.model:
        models["the demo"] = load_model(args.model, torch.device("cpu"))
    result: dict[str, Any] = {"quick": args.quick, "threads": args.threads, "repeats": repeats, "batch": BATCH}
    result |= {"machine": machine_name("cpu"), "commit": code_commit(), "rows": []}
    result["versions"] = {name: importlib.metadata.version(name) for name in ("torch", "onnxruntime")}
    with tempfile.TemporaryDirectory() as place:
        for name, (model, processor) in models.items():
            folders = export_both(model, processor, Path(place), name.replace("/", "-"))
            row = bench_model(name, model, folders, repeats)
            for graph, rates in row["rates"].items():
                print(f"{name:<10}{graph:<14}" + "".join(f"{key}: {value:8.1f}/s  " for key, value in rates.items()))
            result["rows"].append(row)
            if args.data_root and name == "the demo":
                result["recall"] = bench_recall(model, processor, folders, args.data_root)
                print(result["recall"])
    write_json(result, args.output)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
