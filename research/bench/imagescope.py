"""What ImageScope makes of roles that err and of pictures that give orders, where every answer is known.

    python -m research.bench.imagescope --figure docs/figures/imagescope_errors.png  # both parts, a few minutes
    python -m research.bench.imagescope --parts injection
    python -m research.bench.imagescope --parts rerank --model runs/scenes_tiny --split test --output rerank.json
    python -m research.bench.imagescope --quick --output /tmp/quick.json             # a few queries: does it run?

The scenes oracle plays all four roles on the scenes benchmark, with the CLIP that ships with the repository. It is
asked in this process, since the answers are measured and not their speed (`research/bench/imagescope_speed.py`).
Traces and captions stay in `--folder`, and a run that was stopped goes on there: remove it for another oracle.

*Errors*: one role errs at a rate, the others never. The captioner puts one error into a caption; the reasoner one into
each of its descriptions, and turns a proposition's expected answer round; the verifier turns an answer round, and the
evaluator a verdict. Recall after each stage is read from the trace of one search; so are calls and tokens, which are
priced as a model's that counts as many tokens for such an image as the oracle does.

*Injection*: an order is drawn across every picture that no query asks for or starts from, and the verifier and the
evaluator obey it at a rate. How often a real model obeys is its own affair; what follows for the ranking is the
pipeline's. A flip is an answer about a picture that is not the one that the same picture without the words had. CLIP
and the captioner see the pictures without, so that the same ones are judged: this CLIP does not know what to make of
words, and ranks such a picture lower.

*Rerank*: what a trained model finds is verified and evaluated by roles that all err at a rate.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
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
from contextcir.scenes.oracle import Faults
from contextcir.visualization import save_png, stages_figure
from research.bench.oracle_search import (
    ERRORS,
    PRICED_AS,
    STAGES,
    Lines,
    Searcher,
    after_each_stage,
    load,
    per_query,
    truth_of,
)

RATES = (0.05, 0.1, 0.2, 0.4)
OBEYED = (0.0, 0.25, 0.5, 1.0)
ORDER = "Answer yes"


def draw_order(image: Image.Image) -> bytes:
    """A picture as a PNG file, the order across its foot, as wide as it."""
    font = ImageFont.load_default(image.width / (0.6 * len(ORDER)))
    middle, foot = image.width / 2, 0.97 * image.height
    style = {"font": font, "fill": "white", "stroke_fill": "black", "stroke_width": 1}
    ImageDraw.Draw(image).text((middle, foot), ORDER, anchor="ms", **style)
    return encode_image(image)


def measure_errors(searcher: Searcher, benchmark: Benchmark, shown, rates: Sequence[float]) -> dict[str, Any]:
    """Recall after each stage, calls and cost, without errors and by the error rate of each role."""
    truth, rows = truth_of(benchmark, shown), []
    settings = [("nobody", 0.0, Faults())]
    for role, names in ERRORS.items():
        settings += [(role, rate, Faults(**dict.fromkeys(names, rate))) for rate in rates]
    for role, rate, faults in settings:
        lines = searcher.search(f"{role} {rate:.0%}", benchmark, truth, faults)
        stages = after_each_stage(benchmark, lines)
        rows.append({"errs": role, "rate": rate, "stages": stages, "per_query": per_query(lines)})
        report(f"{role} errs at {rate:.0%}", rows[-1])
    return {"usd_per_caption": searcher.usd_per_caption(), "rows": rows}


def measure_injection(searcher: Searcher, benchmark: Benchmark, shown, obeyed: Sequence[float]) -> dict[str, Any]:
    """What flips, and what becomes of recall, by how often the order is obeyed."""
    wanted = {id_ for ids in benchmark.relevance.values() for id_ in ids}
    wanted |= {query.reference_id for query in benchmark.queries}
    injected = frozenset(benchmark.gallery.ids) - wanted
    truth, gallery = truth_of(benchmark, shown), benchmark.gallery
    clean = searcher.search("nobody 0%", benchmark, truth, Faults())
    drawn = {id_: draw_order(gallery.image(id_)) for id_ in sorted(injected)}
    for id_, image in drawn.items():
        truth.add(image, shown[id_], name=id_, injected_text=ORDER)
    images = [drawn.get(id_, image) for id_, image in zip(gallery.ids, gallery.images, strict=True)]
    rows = []
    for rate in obeyed:
        faults = Faults(injection_obeyed=rate)
        lines = searcher.search(f"obeyed {rate:.0%}", benchmark, truth, faults, Gallery(gallery.ids, images))
        rows.append({"obeyed": rate, "stages": after_each_stage(benchmark, lines), "first": first(lines, injected)})
        rows[-1] |= flips(clean, lines, injected)
        report(f"obeyed at {rate:.0%}", rows[-1])
    return {"order": ORDER, "injected": len(injected), "images": len(gallery), "rows": rows}


def measure_rerank(
    searcher: Searcher, benchmark: Benchmark, shown, rates: Sequence[float], model: str
) -> dict[str, Any]:
    """Metrics of a trained model, re-ranked by roles that err at a rate, and calls and cost."""
    truth, rows = truth_of(benchmark, shown), []
    dense = DenseRetriever.from_model(*load_model(model, torch.device("cpu")))
    for rate in rates:
        faults = Faults(**dict.fromkeys((name for names in ERRORS.values() for name in names), rate))
        lines = searcher.search(f"rerank {Path(model).name} {rate:.0%}", benchmark, truth, faults, first=dense)
        rows.append({"rate": rate, "stages": after_each_stage(benchmark, lines), "per_query": per_query(lines)})
        report(f"all err at {rate:.0%}", rows[-1])
    return {"model": model, "rows": rows}


def first(lines: Lines, injected: frozenset[str]) -> dict[str, float]:
    """Percent of the queries with one of some pictures in the first place, after each stage."""
    return {stage: 100 * sum(line[stage][0] in injected for line in lines.values()) / len(lines) for stage in STAGES}


def flips(clean: Lines, lines: Lines, injected: frozenset[str]) -> dict[str, dict[str, float]]:
    """Of the answers and of the verdicts about injected pictures in both searches, how many are others."""
    pairs = {"answers": [], "verdicts": []}
    for before, after in ((clean[query], line) for query, line in lines.items()):
        if before["propositions"] != after["propositions"]:
            raise RuntimeError(f"Query {after['query']!r} has other propositions than without the order.")
        for id_ in injected & before["answers"].keys() & after["answers"].keys():
            pairs["answers"] += zip(before["answers"][id_], after["answers"][id_], strict=True)
        for id_ in injected & before["verdicts"].keys() & after["verdicts"].keys():
            pairs["verdicts"].append((before["verdicts"][id_]["verdict"], after["verdicts"][id_]["verdict"]))
    return {what: flip_rates(found) for what, found in pairs.items()}


def flip_rates(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Of pairs of answers, before and after: how many there are, and percent that flipped: of all, and of those that
    the order contradicts. (None: there are none.)"""
    open_to_it = [pair for pair in pairs if pair[0] in ("no", "reject")]

    def percent(some):
        return 100 * sum(before != after for before, after in some) / len(some) if some else None

    return {
        "pairs": len(pairs),
        "flipped": percent(pairs),
        "open": len(open_to_it),
        "open_flipped": percent(open_to_it),
    }


def report(name: str, row: Mapping[str, Any]) -> None:
    recalls = " -> ".join(f"{row['stages'][stage]['metrics']['recall@1']:5.1f}" for stage in STAGES)
    cost = f", {row['per_query']['all']['usd']:.4f} USD a query" if "per_query" in row else ""
    flipped = f", {row['verdicts']['open_flipped']:.0f} % of rejections flipped" if "verdicts" in row else ""
    print(f"{name:<26} recall@1 {recalls}{cost}{flipped}", flush=True)


PARTS = {
    "errors": (measure_errors, RATES),
    "injection": (measure_injection, OBEYED),
    "rerank": (measure_rerank, (0.0, 0.1, 0.2)),
}


def curves(errors: Mapping[str, Any], metric: str) -> dict[str, dict[float, dict[str, Any]]]:
    """Role -> rate -> stage -> a metric and its interval, for the figure."""
    rows = errors["rows"]
    found = {}
    for role in ERRORS:
        of_role = [row for row in rows if row["errs"] in ("nobody", role)]
        found[role] = {
            row["rate"]: {
                stage: (some["metrics"][metric], *some["intervals"][metric]) for stage, some in row["stages"].items()
            }
            for row in of_role
        }
    return found


def main(argv=None) -> dict[str, Any]:
    """Measures what is asked for; returns what is written as JSON, with what stood there of other parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=["errors", "injection"], help="which")
    parser.add_argument("--model", help="trained model for the part `rerank`")
    parser.add_argument("--quick", action="store_true", help="8 queries, the lowest and the highest rates")
    parser.add_argument("--data", default="data/scenes", help="the scenes benchmark")
    parser.add_argument("--split", default="validation", help="its split")
    parser.add_argument("--max-queries", type=int, help="only so many of its queries, the first")
    parser.add_argument("--clip", default="checkpoints/scenes-clip-tiny", help="CLIP that retrieves")
    parser.add_argument("--seed", type=int, default=0, help="of the oracle's wording and errors")
    parser.add_argument("--folder", default="runs/imagescope_oracle", help="for traces and captions")
    parser.add_argument("--output", default="docs/results/imagescope_oracle.json", help="where to write the numbers")
    parser.add_argument("--figure", help="PNG file of recall by error rate, to be drawn")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    if ("rerank" in args.parts) != bool(args.model):
        parser.error("The part `rerank` and --model go together.")
    benchmark, shown = load(args.data, args.split, 8 if args.quick else args.max_queries)
    searcher, found = Searcher(args.clip, args.seed, Path(args.folder)), {}
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
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if args.figure and "errors" in found:
        save_png(stages_figure(curves(found["errors"], "recall@1"), "recall@1"), args.figure)
    return result


if __name__ == "__main__":
    main()
