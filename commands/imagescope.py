"""ImageScope as `benchmark.py` seats it: four roles at their servers, one ledger for each process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from contextcir.chat import ChatServer
from contextcir.dispatch import Dispatcher
from contextcir.distributed import process_state
from contextcir.ledger import Ledger
from contextcir.prices import FREE, price_of
from contextcir.retrieval.base import Retriever
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.imagescope import ImageScope, Panel, ReasonedRetriever, Role, Roles
from contextcir.retrieval.imagescope.args import PAPER_MODELS, ImageScopeArguments
from contextcir.retrieval.imagescope.cache import weights_id
from modeling_contextcir import ContextCIRProcessor

from .loading import load_clip, load_model

IMAGESCOPE = "imagescope"


def imagescope(
    args: ImageScopeArguments, clip: str, benchmark: str, device: torch.device, options: dict[str, Any]
) -> Iterator[tuple[str, Retriever]]:
    """ImageScope, and before it what its earlier stages find, if they are to be measured."""
    with seated(args, benchmark) as panel:
        if args.rerank:
            first = DenseRetriever.from_model(*load_model(args.rerank, device), **options)
        else:
            clip_model = load_clip(clip, device)
            dense = DenseRetriever.text_only(clip_model, ContextCIRProcessor.from_pretrained(clip), **options)
            first = ReasonedRetriever(panel, dense, f"{weights_id(clip_model)}-{options['autocast']}", tau=args.tau)
        if args.after_each_stage:
            yield f"{IMAGESCOPE}, retrieved", first
            yield f"{IMAGESCOPE}, verified", ImageScope(panel, first, verified=args.verified, evaluated=0)
        yield IMAGESCOPE, ImageScope(panel, first, verified=args.verified, evaluated=args.evaluated)


@contextmanager
def seated(args: ImageScopeArguments, benchmark: str) -> Iterator[Panel]:
    """The four roles at their servers, whose answers may still arrive at the end. Each process pays its share."""
    state, loop, dispatchers = process_state(), asyncio.new_event_loop(), {}
    folder = Path(args.trace, f"answers-{state.process_index}")
    # With another number of processes, nobody would count what the ledgers of the others have spent.
    settings = {"answers": IMAGESCOPE, "processes": state.num_processes}
    with Ledger(folder, settings, args.max_usd and args.max_usd / state.num_processes) as ledger:
        roles = {}
        for role in PAPER_MODELS:
            model, url = args.server_of(role)
            if (model, url) not in dispatchers:
                price = FREE if args.free else price_of(model)
                server = ChatServer(model, url, price=price, temperature=args.temperature)
                dispatchers[model, url] = Dispatcher(server, ledger, concurrency=args.concurrency)
            # What tells its answers apart in traces and caches
            name = model if args.temperature is None else f"{model}, temperature {args.temperature}"
            roles[role] = Role(name, dispatchers[model, url].ask)
        options = {"cache": Path(args.cache).expanduser(), "benchmark": benchmark, "waiting": 20 * args.concurrency}
        try:
            yield Panel(Roles(**roles), args.trace, loop=loop, **options)
        finally:
            for dispatcher in dispatchers.values():
                loop.run_until_complete(dispatcher.close())
                loop.run_until_complete(dispatcher.server.close())
            loop.close()
