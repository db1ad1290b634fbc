"""Searches of scenes with ImageScope, in which an oracle plays all roles.

The oracle is called in this process, with the requests and the checks of a server. Answers that do not depend on the
settings of a search are computed once for all searches of a process.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from contextcir.benchmarks.base import Benchmark
from contextcir.chat.exchange import ChatRequest, Outcome
from contextcir.chat.prices import price_of
from contextcir.chat.server import ChatServer
from contextcir.cli.loading import load_clip
from contextcir.data.content import image_digest
from contextcir.evaluation.results import summarise
from contextcir.retrieval.base import Gallery, Query, Ranking, Retriever
from contextcir.retrieval.baselines import clip_baselines
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.imagescope import ImageScope, Panel, ReasonedRetriever, Role, Roles
from contextcir.retrieval.imagescope.cache import CaptionCache
from contextcir.retrieval.imagescope.roles import Questions, load_prompts
from contextcir.retrieval.imagescope.trace import query_key, read_trace
from contextcir.retrieval.store.cache import GalleryCache
from contextcir.scenes.oracle import Faults, Oracle
from contextcir.scenes.truth import Truth
from modeling_contextcir import ContextCIRProcessor

ERRORS = {  # role -> the faults of the oracle that are errors of the role
    "captioner": ("captions_wrong",),
    "reasoner": ("reasoning_wrong", "propositions_wrong"),
    "verifier": ("verification_wrong",),
    "evaluator": ("evaluation_wrong",),
}
STAGES = ("retrieved", "verified", "evaluated")
USED = {"calls": "requests", "usd": "usd"}  # our name -> name in the trace
PRICED_AS = "gpt-4o"  # it counts 255 tokens for a small image, as the oracle does


Lines = dict[str, dict[str, Any]]  # query id -> its line of a trace


class FixedGalleryRetriever(ReasonedRetriever):
    """A reasoned retriever that searches a fixed gallery instead of the one that it is given. Both have the same
    ids."""

    def __init__(self, panel: Panel, clip: DenseRetriever, gallery: Gallery):
        super().__init__(panel, clip)
        self.gallery = gallery

    def search(self, queries: Sequence[Query], gallery: Gallery, k: int, **options: Any) -> Ranking:
        return super().search(queries, self.gallery, k, **options)


class Searcher:
    """
    Search with ImageScope, and continue interrupted searches of the same name.

    Args:
        clip (`str`): Folder or Hub name of the CLIP that retrieves.
        seed (`int`): Seed of wording and errors.
        folder (`Path`): Folder of traces and captions.
    """

    def __init__(self, clip: str, seed: int, folder: Path):
        model = load_clip(clip, torch.device("cpu"))
        keep = GalleryCache(folder / "galleries")
        self.clip = clip_baselines(model, ContextCIRProcessor.from_pretrained(clip), keep=keep)["CLIP, text only"]
        self.seed, self.folder = seed, folder
        self.known: dict[tuple[Any, ...], Outcome] = {}  # answers of roles with the same error rates

    def search(
        self,
        name: str,
        benchmark: Benchmark,
        truth: Truth,
        faults: Faults,
        judged: Gallery | None = None,
        first: Retriever | None = None,
    ) -> Lines:
        """
        Search a benchmark.

        Args:
            name (`str`): Name of the search.
            benchmark (`Benchmark`): The queries and the gallery.
            truth (`Truth`): What the oracle knows.
            faults (`Faults`): Error rates of the roles.
            judged (`Gallery`, *optional*): Other pictures, with the same ids, to verify and evaluate.
            first (`Retriever`, *optional*): First retriever; by default the reasoner with CLIP.

        Returns:
            `dict[str, dict]`: Query id -> its line of the trace.
        """
        folder = self.folder / f"{name}, seed {self.seed}"
        if len(lines := finished(folder, benchmark)) < len(benchmark.queries):
            ask = ask_function(Oracle(truth, faults=faults, seed=self.seed), self.known)
            roles = Roles(Role(self.captioner(faults), ask), *[Role("oracle", ask)] * 3)
            with closing(Panel(roles, folder, cache=self.folder)) as panel:
                first = first or FixedGalleryRetriever(panel, self.clip, benchmark.gallery)
                scope = ImageScope(panel, first)
                scope.search(benchmark.queries, judged or benchmark.gallery, benchmark.k, exclude_reference=True)
            lines = finished(folder, benchmark)
        return lines

    def captioner(self, faults: Faults) -> str:
        """Return a name for the cache of captions, different for each error rate."""
        return f"oracle, {faults.captions_wrong:.0%} wrong, seed {self.seed}"

    def usd_per_caption(self) -> float:
        """Return the mean cost of the captions without errors, in USD."""
        prompt = Questions(load_prompts()).caption(None).prompt
        rows = list(CaptionCache(self.folder, self.captioner(Faults()), prompt).rows())
        return sum(row["usd"] for row in rows) / len(rows)


def finished(folder: Path, benchmark: Benchmark) -> Lines:
    """Return the lines of the queries that have passed all stages, in the order of the benchmark."""
    trace = folder / "trace.jsonl"
    lines = {line["key"]: line for line in read_trace(trace) if "evaluated" in line} if trace.is_file() else {}
    keys = {query.id: query_key(query) for query in benchmark.queries}
    return {id_: lines[key] for id_, key in keys.items() if key in lines}


def ask_function(oracle: Oracle, known: dict[tuple[Any, ...], Outcome]) -> Callable[[ChatRequest], Awaitable[Outcome]]:
    """
    Return a function that sends a request to an oracle in this process, with the checks of a server.

    Args:
        oracle (`Oracle`): The oracle.
        known (`dict`): Answers by request and by the error rates of its role. Only other requests reach the oracle.
    """
    server = ChatServer("oracle", "http://127.0.0.1/v1", price=price_of(PRICED_AS))

    async def ask(request: ChatRequest) -> Outcome:
        rates = [getattr(oracle.faults, name) for name in (*ERRORS[request.role], "injection_obeyed")]
        key = (request.role, *rates, request.schema, request.prompt, *map(image_digest, request.images))
        if key not in known:
            reply = oracle.respond(server.body(request))
            if reply.status != 200:
                raise RuntimeError(f"The oracle cannot answer the {request.role}: {reply.body!r}")
            known[key] = server.read_response(reply.body, request)
        return known[key]

    return ask


def after_each_stage(benchmark: Benchmark, lines: Lines) -> dict[str, dict[str, Any]]:
    """Compute the metrics after each stage, with their intervals."""
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
    """Compute the mean calls and USD of a query, by role. Captions, which queries share, are left out."""
    found = {}
    for role in ("reasoner", "verifier", "evaluator"):
        calls = [line["calls"].get(role, {"requests": 0, "usd": 0.0}) for line in lines.values()]
        found[role] = {name: sum(call[key] for call in calls) / len(lines) for name, key in USED.items()}
    return found | {"all": {name: sum(some[name] for some in found.values()) for name in USED}}
