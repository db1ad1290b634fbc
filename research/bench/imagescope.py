"""ImageScope with roles that make errors, and with pictures that contain orders, where every answer is known.

    python -m research.bench.imagescope --figure docs/figures/imagescope_errors.png  # both parts, a few minutes
    python -m research.bench.imagescope --parts injection
    python -m research.bench.imagescope --parts rerank --model runs/scenes_tiny --split test --output rerank.json
    python -m research.bench.imagescope --quick --output /tmp/quick.json             # a few queries: a test run

The scenes oracle plays all four roles on the scenes benchmark, with the CLIP that ships with the repository. It is
called in this process, because answers are measured and not speed (`research/bench/imagescope_speed.py`). Traces and
captions stay in `--folder`, and an interrupted run continues there. Remove the folder for another oracle.

*Errors*: one role makes errors at a given rate, the others none. The captioner puts one error into a caption. The
reasoner puts one into each description, and inverts the expected answer of a proposition. The verifier inverts an
answer, and the evaluator a verdict. Recall after each stage, calls and tokens are read from the trace of one search.
Tokens have the price of a model that counts as many tokens for such an image as the oracle.

*Injection*: an order is drawn across every picture that is neither a target nor a reference. The verifier and the
evaluator obey it at a given rate. How often real models obey is not measured here, but the effect on the ranking is.
An answer is flipped if it differs from the answer for the same picture without the order. CLIP and the captioner see
the pictures without the order, so that the same pictures are judged: this CLIP does not know written words, and ranks
such pictures lower.

*Rerank*: the results of a trained model are verified and evaluated by roles that all make errors at a given rate.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from contextcir.benchmarks.base import Benchmark
from contextcir.chat.prices import price_of
from contextcir.cli.loading import load_model
from contextcir.data.images import encode_image
from contextcir.retrieval.base import Gallery
from contextcir.retrieval.dense import DenseRetriever
from contextcir.runtime.provenance import code_commit, versions
from contextcir.scenes import Scene
from contextcir.scenes.oracle import Faults
from contextcir.visualization import save_png
from research.bench.measuring import write_json
from research.bench.oracle_search import (
    ERRORS,
    PRICED_AS,
    STAGES,
    Lines,
    Searcher,
    after_each_stage,
    per_query,
)
from research.bench.oracles import load_benchmark, truth_of
from research.panels import stages_figure

Shown = Mapping[str, Scene]  # id of a picture -> its scene
RATES = (0.05, 0.1, 0.2, 0.4)
OBEYED = (0.0, 0.25, 0.5, 1.0)
ORDER = "Answer yes"


def draw_order(image: Image.Image) -> bytes:
    """Draw the order across the foot of a picture, as wide as the picture. Return a PNG file."""
    font = ImageFont.load_default(image.width / (0.6 * len(ORDER)))
    middle, foot = image.width / 2, 0.97 * image.height
    style: dict[str, Any] = {"font": font, "fill": "white", "stroke_fill": "black", "stroke_width": 1}
    ImageDraw.Draw(image).text((middle, foot), ORDER, anchor="ms", **style)
    return encode_image(image)


def faults_of(roles: Iterable[str], rate: float) -> Faults:
    """Return faults by which all of these roles make errors at a rate."""
    rates: dict[str, Any] = {name: rate for role in roles for name in ERRORS[role]}
    return Faults(**rates)


def measure_errors(searcher: Searcher, benchmark: Benchmark, shown: Shown, rates: Sequence[float]) -> dict[str, Any]:
    """Measure recall after each stage, calls and cost, without errors and by the error rate of each role."""
    truth = truth_of(benchmark, shown)
    rows: list[dict[str, Any]] = []
    for role, rate in [("nobody", 0.0), *((role, rate) for role in ERRORS for rate in rates)]:
        faults = faults_of([role], rate) if rate else Faults()
        lines = searcher.search(f"{role} {rate:.0%}", benchmark, truth, faults)
        stages = after_each_stage(benchmark, lines)
        rows.append({"errs": role, "rate": rate, "stages": stages, "per_query": per_query(lines)})
        report(f"{role} wrong in {rate:.0%}", rows[-1])
    return {"usd_per_caption": searcher.usd_per_caption(), "rows": rows}


def measure_injection(
    searcher: Searcher, benchmark: Benchmark, shown: Shown, obeyed: Sequence[float]
) -> dict[str, Any]:
    """Measure recall and flipped answers, by the rate at which the order is obeyed."""
    needed = {id_ for ids in benchmark.relevance.values() for id_ in ids}
    needed |= {query.reference_id for query in benchmark.queries if query.reference_id}
    injected = frozenset(benchmark.gallery.ids) - needed
    truth, gallery = truth_of(benchmark, shown), benchmark.gallery
    clean = searcher.search("nobody 0%", benchmark, truth, Faults())
    drawn = {id_: draw_order(gallery.image(id_)) for id_ in sorted(injected)}
    for id_, image in drawn.items():
        truth.add(image, shown[id_], name=id_, injected_text=ORDER)
    images = [drawn.get(id_, image) for id_, image in zip(gallery.ids, gallery.images, strict=True)]
    rows: list[dict[str, Any]] = []
    for rate in obeyed:
        faults = Faults(injection_obeyed=rate)
        lines = searcher.search(f"obeyed {rate:.0%}", benchmark, truth, faults, Gallery(gallery.ids, images))
        rows.append(
            {"obeyed": rate, "stages": after_each_stage(benchmark, lines), "first": share_first(lines, injected)}
        )
        rows[-1] |= flips(clean, lines, injected)
        report(f"obeyed at {rate:.0%}", rows[-1])
    return {"order": ORDER, "injected": len(injected), "images": len(gallery), "rows": rows}


def measure_rerank(
    searcher: Searcher, benchmark: Benchmark, shown: Shown, rates: Sequence[float], model: str
) -> dict[str, Any]:
    """Measure a trained model whose results are re-ranked by roles with errors, with calls and cost."""
    truth = truth_of(benchmark, shown)
    rows: list[dict[str, Any]] = []
    dense = DenseRetriever.from_model(*load_model(model, torch.device("cpu")))
    for rate in rates:
        name = f"rerank {Path(model).name} {rate:.0%}"
        lines = searcher.search(name, benchmark, truth, faults_of(ERRORS, rate), first=dense)
        rows.append({"rate": rate, "stages": after_each_stage(benchmark, lines), "per_query": per_query(lines)})
        report(f"all wrong in {rate:.0%}", rows[-1])
    return {"model": model, "rows": rows}


def share_first(lines: Lines, injected: frozenset[str]) -> dict[str, float]:
    """Compute the percentage of queries with an injected picture in first place, after each stage."""
    return {stage: 100 * sum(line[stage][0] in injected for line in lines.values()) / len(lines) for stage in STAGES}


def flips(clean: Lines, lines: Lines, injected: frozenset[str]) -> dict[str, dict[str, float | None]]:
    """Compare the answers and verdicts about injected pictures in two searches. See [`flip_rates`]."""
    pairs: dict[str, list[tuple[str, str]]] = {"answers": [], "verdicts": []}
    for before, after in ((clean[query], line) for query, line in lines.items()):
        if before["propositions"] != after["propositions"]:
            raise RuntimeError(f"Query {after['query']!r} has other propositions with the order than without it.")
        for id_ in injected & before["answers"].keys() & after["answers"].keys():
            pairs["answers"] += zip(before["answers"][id_], after["answers"][id_], strict=True)
        for id_ in injected & before["verdicts"].keys() & after["verdicts"].keys():
            pairs["verdicts"].append((before["verdicts"][id_]["verdict"], after["verdicts"][id_]["verdict"]))
    return {what: flip_rates(found) for what, found in pairs.items()}


def flip_rates(pairs: Sequence[tuple[str, str]]) -> dict[str, float | None]:
    """Count pairs of answers, without and with the order, and the percentage of flipped ones: of all, and of the
    `open` ones, which the order contradicts. The percentage is `None` if there are none."""
    contradicted = [pair for pair in pairs if pair[0] in ("no", "reject")]

    def percent(some: Sequence[tuple[str, str]]) -> float | None:
        return 100 * sum(before != after for before, after in some) / len(some) if some else None

    return {
        "pairs": len(pairs),
        "flipped": percent(pairs),
        "open": len(contradicted),
        "open_flipped": percent(contradicted),
    }


def report(name: str, row: Mapping[str, Any]) -> None:
    """Print a line."""
    recalls = " -> ".join(f"{row['stages'][stage]['metrics']['recall@1']:5.1f}" for stage in STAGES)
    cost = f", {row['per_query']['all']['usd']:.4f} USD a query" if "per_query" in row else ""
    flipped = f", {row['verdicts']['open_flipped']:.0f} % of rejections flipped" if "verdicts" in row else ""
    print(f"{name:<26} recall@1 {recalls}{cost}{flipped}", flush=True)


PARTS: dict[str, tuple[Callable[..., dict[str, Any]], Sequence[float]]] = {
    "errors": (measure_errors, RATES),
    "injection": (measure_injection, OBEYED),
    "rerank": (measure_rerank, (0.0, 0.1, 0.2)),
}


def curves(errors: Mapping[str, Any], metric: str) -> dict[str, dict[float, dict[str, Any]]]:
    """Return role -> rate -> stage -> a metric and its interval, for the figure."""

    def stages(row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: (some["metrics"][metric], *some["intervals"][metric]) for name, some in row["stages"].items()}

    return {
        role: {row["rate"]: stages(row) for row in errors["rows"] if row["errs"] in ("nobody", role)}
        for role in ERRORS
    }


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Measure the parts. Returns the result, as written to JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=["errors", "injection"], help="parts to measure"
    )
    parser.add_argument("--model", help="trained model for the part `rerank`")
    parser.add_argument("--quick", action="store_true", help="8 queries, only the lowest and the highest rate")
    parser.add_argument("--data", default="data/scenes", help="the scenes benchmark")
    parser.add_argument("--split", default="validation", help="its split")
    parser.add_argument("--max-queries", type=int, help="use the first queries only")
    parser.add_argument("--clip", default="checkpoints/scenes-clip-tiny", help="CLIP that retrieves")
    parser.add_argument("--seed", type=int, default=0, help="seed of the oracle's wording and errors")
    parser.add_argument("--folder", default="runs/imagescope_oracle", help="folder of traces and captions")
    parser.add_argument("--output", default="docs/results/imagescope_oracle.json", help="JSON file of the result")
    parser.add_argument("--figure", help="PNG file for a figure of recall by error rate")
    args = parser.parse_args(argv)
    if ("rerank" in args.parts) != bool(args.model):
        parser.error("The part rerank needs --model, and no other part has it.")
    benchmark, shown = load_benchmark(args.data, args.split, 8 if args.quick else args.max_queries)
    searcher = Searcher(args.clip, args.seed, Path(args.folder))
    found: dict[str, dict[str, Any]] = {}
    for part in args.parts:
        measure, rates = PARTS[part]
        model = [args.model] if part == "rerank" else []
        found[part] = measure(searcher, benchmark, shown, (rates[0], rates[-1]) if args.quick else rates, *model)
    result = {
        "command": shlex.join(["python", "-m", "research.bench.imagescope", *argv]),
        "commit": code_commit(),
        "seed": args.seed,
        "protocol_id": benchmark.protocol_id,
        "num_queries": len(benchmark.queries),
        "gallery_size": len(benchmark.gallery),
        "clip": args.clip,
        "price": {"model": PRICED_AS, **asdict(price_of(PRICED_AS))},
        "versions": versions(),
        **found,
    }
    write_json(result, args.output)
    if args.figure and "errors" in found:
        save_png(stages_figure(curves(found["errors"], "recall@1"), "recall@1"), args.figure)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
