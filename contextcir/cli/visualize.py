"""Draw what a trained model does: a retrieval grid, its mistakes, the attention of noun phrases, and training curves.

    contextcir visualize --run runs/demo --benchmark scenes --data_root data/scenes --split test
    contextcir visualize --run runs/demo --compare runs/long runs/no_cc --benchmark scenes --data_root data/scenes
    contextcir visualize --trace runs/circo --benchmark circo --data_root benchmarks --queries 3

Writes into `figures/` of the run `retrieval_grid.png`, `concept_attention.png` and `training_curves.png`. Of galleries
up to 20,000 images also `score_margins.png` (targets against hard negatives), `text_alone.png` (what the reference
image adds) and `embedding_map.png`. `error_profile.png`, where `contextcir benchmark --output RUN/metrics.json` has
measured it on a benchmark that names mistakes, as scenes does. `attention_over_training.png`, where the run keeps two
checkpoints or more (`--save_total_limit 10`): the same phrases at up to eight of its steps. With `--compare`, up to
four other runs are drawn beside the first in curves, profile and attention, and below it in the grid. Attention is
drawn for ConText-CIR models, everything else for any model.

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
MOST = 5  # runs in one picture
COLUMNS, STEPPED = 8, 4  # steps of a training and queries in one picture
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
    compare: list[str] | None = HfArg(default=None, help="Up to four other runs, such as one without the CC loss.")
    queries: int = HfArg(default=6, help="How many queries to draw, evenly spaced over the split.")
    output: str | None = HfArg(default=None, help="Folder of the pictures; by default figures/ of the run or trace.")

    def __post_init__(self):
        if self.queries < 1:
            raise ValueError(f"queries must be at least 1, got {self.queries}.")
        if (self.run is None) == (self.trace is None) or (self.compare and self.trace):
            raise ValueError("Give either --run, with which --compare goes, or --trace.")
        if len(self.compare or ()) > MOST - 1:
            raise ValueError(f"Got {len(self.compare or ())} runs to --compare, expected at most {MOST - 1}.")


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
        draw_runs(choice, [args.run, *(args.compare or ())], args.queries, write)
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
    """Draw one trained model, or several side by side."""
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
    extract = NounPhraseExtractor().extract if with_maps else None
    retrievers = {name: DenseRetriever.from_model(*parts) for name, parts in models.items()}
    checkpoints = saved_steps(runs[0]) if names[0] in with_maps else {}
    for part in choice.load():
        queries = evenly_spaced(part.queries, count)
        end = f"_{part.part}.png" if part.part else ".png"
        write(draw_found(part, queries, retrievers), f"retrieval_grid{end}")
        for name, figure in draw_space(part, queries, retrievers[names[0]]).items():
            write(figure, f"{name}{end}")
        shown = [query for query in queries if query.has_reference]
        if extract and shown:
            found = extract([query.modification_text for query in shown])
            write(draw_maps(part, shown, with_maps, found), f"concept_attention{end}")
            if len(checkpoints) > 1 and any(found):
                write(draw_steps(part, shown, checkpoints, found, device), f"attention_over_training{end}")


def saved_steps(run: str) -> dict[int, str]:
    """`dict[int, str]`: Steps whose checkpoints a run keeps whole, at most [`COLUMNS`], evenly spaced, with the first
    and the last -> their folders."""
    from contextcir.training.checkpoints import checkpoint_problem

    folders = {int(path.name.split("-")[1]): str(path) for path in Path(run).glob("checkpoint-*[0-9]")}
    whole = [step for step in sorted(folders) if checkpoint_problem(folders[step]) is None]
    last = len(whole) - 1
    places = (
        {round(place * last / (COLUMNS - 1)) for place in range(COLUMNS)} if len(whole) > COLUMNS else range(last + 1)
    )
    return {whole[place]: folders[whole[place]] for place in sorted(places)}


def draw_found(benchmark: Benchmark, queries: list[Query], retrievers: Mapping[str, Any]):
    """Draw what models find."""
    from contextcir.visualization import retrieval_grid

    gallery = benchmark.gallery
    rankings = {
        name: retriever.search(  # all of the gallery: the figure tells the rank of a target, however low
            queries, gallery, len(gallery), exclude_reference=benchmark.exclude_reference
        )
        for name, retriever in retrievers.items()
    }
    return retrieval_grid(queries, gallery, rankings, benchmark.relevance)


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


def draw_maps(benchmark: Benchmark, queries: list[Query], models: Mapping[str, tuple], phrases: Sequence[Sequence]):
    """Draw where the noun phrases of queries look, which are those of each query."""
    from contextcir.visualization import concept_attention_figure

    truths = truths_of(benchmark, queries)
    return concept_attention_figure(
        {name: maps_of(benchmark, queries, parts, phrases, truths) for name, parts in models.items()}
    )


def draw_steps(
    benchmark: Benchmark, queries: list[Query], checkpoints: Mapping[int, str], phrases: Sequence[Sequence], device
):
    """Draw where noun phrases looked when training had come so far. Models are loaded one after the other."""
    from contextcir.cli.loading import load_model
    from contextcir.visualization import attention_steps_figure

    some = [place for place, found in enumerate(phrases) if found][:STEPPED]
    queries, phrases = [queries[place] for place in some], [phrases[place] for place in some]
    truths = truths_of(benchmark, queries)
    return attention_steps_figure(
        {
            step: maps_of(benchmark, queries, load_model(folder, device), phrases, truths)
            for step, folder in checkpoints.items()
        }
    )


def truths_of(benchmark: Benchmark, queries: list[Query]) -> list:
    """Return of each query what its noun phrases denote, or `None` where that is not known."""
    known = {} if benchmark.ground_truth is None else benchmark.ground_truth()
    return [known.get(query.id) for query in queries]


def maps_of(benchmark: Benchmark, queries: list[Query], parts: tuple, phrases, truths) -> list:
    """Return the attention maps of one model, given with its processor, for the noun phrases of queries."""
    from contextcir.visualization import concept_maps

    model, processor = parts
    images = [benchmark.gallery.reference_image(query) for query in queries]
    return [
        concept_maps(model.eval(), processor, image, query.modification_text, found, truth)
        for query, image, found, truth in zip(queries, images, phrases, truths, strict=True)
    ]
