"""Searches of scenes in which an oracle plays all roles of ImageScope: what is searched, asked, and made of it.

The oracle is asked without a line between, in the same words and by the same checks. Answers that do not depend on
what a search changes are given once for all searches of a process.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from contextcir.benchmarks import scenes
from contextcir.benchmarks.base import Benchmark
from contextcir.chat.images import image_digest
from contextcir.chat.prices import price_of
from contextcir.chat.server import ChatRequest, ChatServer, Outcome
from contextcir.cli.loading import load_clip
from contextcir.evaluation.results import summarise
from contextcir.retrieval.base import Gallery, Ranking, Retriever
from contextcir.retrieval.baselines import clip_baselines
from contextcir.retrieval.imagescope import ImageScope, Panel, ReasonedRetriever, Role, Roles
from contextcir.retrieval.imagescope.cache import CaptionCache, weights_id
from contextcir.retrieval.imagescope.roles import Questions, load_prompts
from contextcir.retrieval.imagescope.trace import query_key, read_trace
from contextcir.scenes import Scene
from contextcir.scenes.oracle import Faults, Oracle
from contextcir.scenes.truth import Truth
from modeling_contextcir import ContextCIRProcessor

ERRORS = {  # role -> the oracle's faults that are its errors
    "captioner": ("captions_wrong",),
    "reasoner": ("reasoning_wrong", "propositions_wrong"),
    "verifier": ("verification_wrong",),
    "evaluator": ("evaluation_wrong",),
}
STAGES = ("retrieved", "verified", "evaluated")
METRICS = {"recall": (1, 5, 10), "recall_subset": (1, 2, 3)}  # as deep as a trace shows
PRICED_AS = "gpt-4o"  # for which a small image is 255 tokens, too


def load(data: str, split: str, max_queries: int | None) -> tuple[Benchmark, dict[str, Scene]]:
    """The scenes benchmark, of its first queries if need be, and what each picture shows."""
    (benchmark,) = scenes.load(data, split)
    benchmark = benchmark.restricted_to(benchmark.queries[:max_queries])
    shown = scenes.load_scenes(data, split)
    gallery = Gallery(benchmark.gallery.ids, list(benchmark.gallery.images))  # files of a few kB, read over and over
    return replace(benchmark, gallery=gallery, metrics=METRICS), shown


def truth_of(benchmark: Benchmark, shown: Mapping[str, Scene]) -> Truth:
    """What an oracle needs to know of a benchmark."""
    truth, gallery = Truth(), benchmark.gallery
    for id_, image in zip(gallery.ids, gallery.images, strict=True):
        truth.add(image, shown[id_], name=id_)
    for query in benchmark.queries:
        target = min(benchmark.relevance[query.id])  # all targets of a query show the same
        truth.add_query(query.modification_text, shown[target], shown[query.reference_id], id=query.id)
    return truth


Lines = dict[str, dict[str, Any]]  # of a trace, by query


class Elsewhere:
    """A retriever that searches in a certain gallery, whichever it is asked about; the ids are the same."""

    def __init__(self, retriever: ReasonedRetriever, gallery: Gallery):
        self.retriever, self.gallery = retriever, gallery

    def search(self, queries, gallery, k, **options) -> Ranking:
        return self.retriever.search(queries, self.gallery, k, **options)


class Searcher:
    """Searches with ImageScope, and goes on where an earlier search of the same name was stopped."""

    def __init__(self, clip: str, seed: int, folder: Path):
        model = load_clip(clip, torch.device("cpu"))
        self.clip = clip_baselines(model, ContextCIRProcessor.from_pretrained(clip))["CLIP, text only"]
        self.clip_id, self.seed, self.folder = weights_id(model), seed, folder
        self.known: dict[tuple, Outcome] = {}  # what roles said that err no more than before

    def search(
        self,
        name: str,
        benchmark: Benchmark,
        truth: Truth,
        faults: Faults,
        judged: Gallery | None = None,
        first: Retriever | None = None,
    ) -> Lines:
        """What ImageScope makes of the benchmark where roles err so; `judged` is what is verified and evaluated, where
        that does not look as what is retrieved, and `first` retrieves, if not the reasoner with CLIP."""
        folder = self.folder / f"{name}, seed {self.seed}"
        if len(lines := finished(folder, benchmark)) < len(benchmark.queries):
            ask = asking(Oracle(truth, faults=faults, seed=self.seed), self.known)
            roles = Roles(Role(self.captioner(faults), ask), *[Role("oracle", ask)] * 3)
            with closing(Panel(roles, folder, cache=self.folder)) as panel:
                first = first or Elsewhere(ReasonedRetriever(panel, self.clip, self.clip_id), benchmark.gallery)
                scope = ImageScope(panel, first)
                scope.search(benchmark.queries, judged or benchmark.gallery, benchmark.k, exclude_reference=True)
            lines = finished(folder, benchmark)
        return lines

    def captioner(self, faults: Faults) -> str:
        """Tells apart those who describe images otherwise."""
        return f"oracle, {faults.captions_wrong:.0%} wrong, seed {self.seed}"

    def usd_per_caption(self) -> float:
        """USD of a caption, on average, of those without errors."""
        prompt = Questions(load_prompts()).caption(None).prompt
        rows = list(CaptionCache(self.folder, self.captioner(Faults()), prompt).rows())
        return sum(row["usd"] for row in rows) / len(rows)


def finished(folder: Path, benchmark: Benchmark) -> Lines:
    """The lines of the benchmark's queries that have come through all stages, in the order of these."""
    trace = folder / "trace.jsonl"
    lines = {line["key"]: line for line in read_trace(trace) if "evaluated" in line} if trace.is_file() else {}
    keys = {query.id: query_key(query) for query in benchmark.queries}
    return {id_: lines[key] for id_, key in keys.items() if key in lines}


def asking(oracle: Oracle, known: dict[tuple, Outcome]) -> Callable:
    """Asks an oracle in this process, in the same words and by the same checks as over a line; and for the same rates
    of a role's errors, and of obedience, only once."""
    server = ChatServer("oracle", "http://127.0.0.1/v1", price=price_of(PRICED_AS))

    async def ask(request: ChatRequest) -> Outcome:
        rates = [getattr(oracle.faults, name) for name in (*ERRORS[request.role], "injection_obeyed")]
        key = (request.role, *rates, request.schema.__name__, request.prompt, *map(image_digest, request.images))
        if key not in known:
            reply = oracle.respond(server.body(request))
            if reply.status != 200:
                raise RuntimeError(f"The oracle cannot answer the {request.role}: {reply.body}")
            known[key] = server.read_response(reply.body, request)
        return known[key]

    return ask


def after_each_stage(benchmark: Benchmark, lines: Lines) -> dict[str, dict[str, Any]]:
    """Metrics of the orders after each stage, with their intervals."""
    found = {}
    for stage in STAGES:
        ranking = Ranking(
            query_ids=list(lines),
            gallery_ids=[line[stage] for line in lines.values()],
            candidate_ids=[line["candidates"][stage] for line in lines.values()],
        )
        summary = summarise(stage, [benchmark], [benchmark.scores(ranking)])
        found[stage] = {name: summary[name] for name in ("metrics", "intervals")}
    return found


def per_query(lines: Lines) -> dict[str, dict[str, float]]:
    """Calls and USD of a query, by role; captions are paid for once, whatever is searched for."""
    usd = {role: [] for role in ("reasoner", "verifier", "evaluator", "all")}  # of each call
    for call in (call for line in lines.values() for call in line["calls"]):
        for role in (call["role"], "all"):
            usd[role].append(call["usd"])
    return {role: {"calls": len(some) / len(lines), "usd": sum(some) / len(lines)} for role, some in usd.items()}
