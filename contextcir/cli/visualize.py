"""Draw what a trained model does: a retrieval grid, its mistakes, the attention of noun phrases, and training curves.

    contextcir visualize --run runs/demo --benchmark scenes --data_root data/scenes --split test
    contextcir visualize --run runs/demo --compare runs/demo_without_cc --benchmark scenes --data_root data/scenes
    contextcir visualize --trace runs/circo --benchmark circo --data_root benchmarks --queries 3

Writes into `figures/` of the run `retrieval_grid.png`, `concept_attention.png` and `training_curves.png`. Of galleries
up to 20,000 images also `score_margins.png` (targets against hard negatives), `text_alone.png` (what the reference
image adds) and `embedding_map.png`. `error_profile.png`, where `contextcir benchmark --output RUN/metrics.json` has
measured it on a benchmark that names mistakes, as scenes does. With `--compare`, a second run is drawn beside the
first in curves, profile and attention. Attention is drawn for ConText-CIR models, everything else for any model.

With `--trace`, the folder that `contextcir benchmark --retriever imagescope --trace` has filled, it writes into
`figures/` of that folder a `funnel_ID.png` for each query: the candidates after each stage, and what was said of each.

The queries are not picked by hand: `--queries n` takes those at the places 0, N/n, 2N/n ... of the split's N queries;
of a trace, of those that are complete. They are evenly spaced because neighbours are often alike.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from transformers.hf_argparser import HfArg

from contextcir.benchmarks.base import Benchmark, evenly_spaced
from contextcir.cli.benchmark_arguments import ALL, BenchmarkChoice
from contextcir.cli.options import CommandParser
from contextcir.retrieval.base import Query

logger = logging.getLogger("contextcir.visualize")
Write = Callable[[Any, str], None]  # a figure, into the output folder under a name
MAPPED = (3, 20_000)  # sizes of galleries of which a map is drawn
HALVES = ("CLIP, image only", "CLIP, text only")


@dataclass
class Drawn(BenchmarkChoice):
    """The benchmark whose queries are drawn."""

    benchmark: str = HfArg(default="custom", help="Name, as for `contextcir benchmark`; custom reads scenes too.")

    def __post_init__(self):
        if self.benchmark == ALL:
            raise ValueError("Draw one benchmark at a time.")
        super().__post_init__()


@dataclass
class VisualizeArguments:
    """What is drawn."""

    _argument_group_name = "Pictures"

    run: str | None = HfArg(
        default=None, help="Output folder of `contextcir train`: model, processor, trainer_state.json."
    )
    trace: str | None = HfArg(default=None, help="Instead of a run: folder of an ImageScope trace.")
    compare: str | None = HfArg(default=None, help="A second run, such as one without the CC loss.")
    queries: int = HfArg(default=6, help="How many queries to draw, evenly spaced over the split.")
    output: str | None = HfArg(default=None, help="Folder of the pictures; by default figures/ of the run or trace.")

    def __post_init__(self):
        if self.queries < 1:
            raise ValueError(f"queries must be at least 1, got {self.queries}.")
        if (self.run is None) == (self.trace is None) or (self.compare and self.trace):
            raise ValueError("Give either --run, with which --compare goes, or --trace.")


def main(argv: Sequence[str]) -> int:
    """Draw the figures."""
    choice, args = CommandParser([Drawn, VisualizeArguments], "contextcir visualize", __doc__).parse(argv)
    from contextcir.visualization import save_png

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output = Path(args.output or Path(args.run or args.trace, "figures"))

    def write(figure, name):
        save_png(figure, output / name)
        logger.info("%s", output / name)

    if args.trace:
        draw_funnels(choice, args.trace, args.queries, write)
    elif args.run:
        draw_runs(choice, [args.run, *([args.compare] if args.compare else [])], args.queries, write)
    return 0


def name_run(run: str, history: Sequence[dict]) -> str:
    """What the figures call a run."""
    with_cc = any("loss_concept_consistency" in entry for entry in history)
    return Path(run).resolve().name + (" (with CC loss)" if with_cc else "")


def read_profiles(runs: Mapping[str, str]) -> dict[str, dict]:
    """
    Read the error profiles in `metrics.json` of runs, if any: of each model, under the name of its run, and of the
    baselines that see half of a query.

    Raises:
        `ValueError`: They were measured on different data or by different protocols.
    """
    profiles: dict[str, dict] = {}
    protocols: dict[str, Path] = {}
    for name, run in runs.items():
        path = Path(run, "metrics.json")
        if not path.is_file():
            logger.info("There is no %s: no error profile is drawn for it.", path)
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        own, *others = record["results"]
        measured = {name: own} | {other["retriever"]: other for other in others if other["retriever"] in HALVES}
        found = {label: result["profile"] for label, result in measured.items() if "profile" in result}
        if found:
            protocols[record["protocol_id"]] = path
        profiles |= found
    if len(protocols) > 1:
        sources = " and ".join(f"{path} of {protocol}" for protocol, path in protocols.items())
        raise ValueError(f"Error profiles do not compare: {sources}. Measure both on the same data.")
    return profiles


def draw_funnels(choice: BenchmarkChoice, trace: str, count: int, write: Write) -> None:
    """Draw queries that ImageScope has searched for."""
    from contextcir.retrieval.imagescope.trace import query_key, read_trace
    from contextcir.visualization import funnel_figure

    path = Path(trace, "trace.jsonl")
    if not path.is_file():
        raise ValueError(f"There is no {path}. Give the folder that was the --trace of `contextcir benchmark`.")
    parts = choice.load()
    records = {record["key"]: record for record in read_trace(path) if "evaluated" in record}
    queries = [(part, query) for part in parts for query in part.queries if query_key(query) in records]
    if not queries:
        raise ValueError(f"No query of {parts[0].protocol_id} has come through all stages in {path}.")
    for part, query in evenly_spaced(queries, count):
        targets = part.relevance.get(query.id, set())
        figure = funnel_figure(query, part.gallery, records[query_key(query)], targets)
        write(figure, f"funnel_{quote(query.id, safe='')}.png")


def draw_runs(choice: BenchmarkChoice, runs: list[str], count: int, write: Write) -> None:
    """Draw one trained model, or two side by side."""
    from contextcir.cli.loading import load_model
    from contextcir.phrases.extractor import NounPhraseExtractor
    from contextcir.retrieval.dense import DenseRetriever
    from contextcir.runtime.distributed import process_state
    from contextcir.visualization import profile_figure, read_history, training_curves

    histories = [read_history(run) for run in runs]
    names = [name_run(run, history) for run, history in zip(runs, histories, strict=True)]
    if len(set(names)) < len(names):
        names = runs
    write(training_curves(dict(zip(names, histories, strict=True))), "training_curves.png")
    if profiles := read_profiles(dict(zip(names, runs, strict=True))):
        write(profile_figure(profiles), "error_profile.png")

    device = process_state().device
    models = {name: load_model(run, device) for name, run in zip(names, runs, strict=True)}
    with_maps = {name: parts for name, parts in models.items() if hasattr(parts[0], "get_concept_attentions")}
    if not with_maps:
        logger.info("%s: no attention of noun phrases to draw; ConText-CIR models have it.", " and ".join(runs))
    extractor = NounPhraseExtractor() if with_maps else None
    retriever = DenseRetriever.from_model(*models[names[0]])
    for part in choice.load():
        queries = evenly_spaced(part.queries, count)
        end = f"_{part.part}.png" if part.part else ".png"
        write(draw_found(part, queries, retriever), f"retrieval_grid{end}")
        for name, figure in draw_space(part, queries, retriever).items():
            write(figure, f"{name}{end}")
        shown = [query for query in queries if query.has_reference]
        if with_maps and shown:
            write(draw_maps(part, shown, with_maps, extractor), f"concept_attention{end}")


def draw_found(benchmark: Benchmark, queries: list[Query], retriever):
    """Draw what a model finds."""
    from contextcir.visualization import retrieval_grid

    gallery = benchmark.gallery
    ranking = retriever.search(  # all of the gallery: the figure tells the rank of a target, however low
        queries, gallery, len(gallery), exclude_reference=benchmark.exclude_reference
    )
    return retrieval_grid(queries, gallery, ranking, benchmark.relevance)


def draw_space(benchmark: Benchmark, shown: list[Query], retriever) -> dict[str, Any]:
    """Draw how far a model sets targets apart and what the reference images add, over all queries with targets and
    references; and on a map the way from reference to target of those that are shown. Empty without such queries."""
    from dataclasses import replace

    import torch

    from contextcir.evaluation.separation import first_ranks, score_margins
    from contextcir.visualization import embedding_map, margin_figure, rank_figure

    queries = [query for query in benchmark.queries if query.has_reference and benchmark.relevance.get(query.id)]
    if not queries or not MAPPED[0] <= len(benchmark.gallery) <= MAPPED[1]:
        return {}
    some, gallery = replace(benchmark, queries=queries), benchmark.gallery
    embeds = torch.as_tensor(retriever.gallery_embeds(gallery)[:]).float().cpu().numpy()
    composed = retriever.encode(queries, gallery).cpu().numpy()
    alone = [replace(query, reference_image=None, reference_id=None) for query in queries]
    scores = composed @ embeds.T
    figures = {"score_margins": margin_figure(score_margins(some, scores))}
    by_text = retriever.encode(alone, gallery).cpu().numpy() @ embeds.T
    figures["text_alone"] = rank_figure(first_ranks(some, by_text), first_ranks(some, scores), len(gallery))
    inside = [query for query in shown if query in queries and query.reference_id in gallery.positions]
    if inside:
        rows = [queries.index(query) for query in inside]
        starts = [gallery.positions[str(query.reference_id)] for query in inside]
        goals = [gallery.positions[min(benchmark.relevance[query.id])] for query in inside]
        texts = [query.modification_text for query in inside]
        figures["embedding_map"] = embedding_map(embeds, embeds[starts], composed[rows], embeds[goals], texts)
    return figures


def draw_maps(benchmark: Benchmark, queries: list[Query], models: Mapping[str, tuple], extractor):
    """Draw where the noun phrases of queries look."""
    from contextcir.visualization import concept_attention_figure, concept_maps

    texts = [query.modification_text for query in queries]
    phrases = extractor.extract(texts)
    images = [benchmark.gallery.reference_image(query) for query in queries]
    known = {} if benchmark.ground_truth is None else benchmark.ground_truth()
    truths = [known.get(query.id) for query in queries]
    maps = {
        name: [
            concept_maps(model.eval(), processor, image, text, found, truth)
            for image, text, found, truth in zip(images, texts, phrases, truths, strict=True)
        ]
        for name, (model, processor) in models.items()
    }
    return concept_attention_figure(maps)
