"""Build ImageScope from its options: four roles at their servers, one ledger for each process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from contextcir.chat import Dispatcher
from contextcir.chat.ledger import Ledger
from contextcir.cli.imagescope_arguments import IMAGESCOPE, PAPER_MODELS, ImageScopeArguments
from contextcir.cli.loading import load_clip, load_model
from contextcir.cli.servers import ServerArguments
from contextcir.retrieval.base import Retriever
from contextcir.retrieval.baselines import clip_baselines
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.imagescope import ImageScope, Panel, ReasonedRetriever, Role, Roles
from contextcir.retrieval.imagescope.cache import weights_id
from contextcir.runtime.distributed import process_state
from modeling_contextcir import ContextCIRProcessor


def imagescope(
    args: ImageScopeArguments,
    servers: ServerArguments,
    clip: str,
    benchmark: str,
    device: torch.device,
    options: dict[str, Any],
) -> Iterator[tuple[str, Retriever]]:
    """ImageScope, and before it its earlier stages, if they are to be measured."""
    with panel_of(args, servers, benchmark) as panel:
        if args.rerank:
            first = DenseRetriever.from_model(*load_model(args.rerank, device), **options)
        else:
            clip_model = load_clip(clip, device)
            dense = clip_baselines(clip_model, ContextCIRProcessor.from_pretrained(clip), **options)["CLIP, text only"]
            first = ReasonedRetriever(panel, dense, f"{weights_id(clip_model)}-{options['autocast']}", tau=args.tau)
        if args.after_each_stage:
            yield f"{IMAGESCOPE}, retrieved", first
            yield f"{IMAGESCOPE}, verified", ImageScope(panel, first, verified=args.verified, evaluated=0)
        yield IMAGESCOPE, ImageScope(panel, first, verified=args.verified, evaluated=args.evaluated)


@contextmanager
def panel_of(args: ImageScopeArguments, servers: ServerArguments, benchmark: str) -> Iterator[Panel]:
    """The four roles at their servers, whose answers may still arrive at the end. Each process pays its share."""
    state, loop, dispatchers = process_state(), asyncio.new_event_loop(), {}
    folder = Path(args.trace, f"answers-{state.process_index}")
    # With another number of processes, nobody would count what the ledgers of the others have spent.
    settings = {"answers": IMAGESCOPE, "processes": state.num_processes}
    with Ledger(folder, settings, servers.max_usd and servers.max_usd / state.num_processes) as ledger:
        roles = {}
        for role in PAPER_MODELS:
            model, url = args.server_of(role, servers.base_url)
            if (model, url) not in dispatchers:
                server = servers.build(model, url)
                dispatchers[model, url] = Dispatcher(server, ledger, concurrency=servers.concurrency)
            # The name by which traces and caches tell its answers apart
            name = model if servers.temperature is None else f"{model}, temperature {servers.temperature}"
            roles[role] = Role(name, dispatchers[model, url].ask)
        options = {"cache": Path(args.cache).expanduser(), "benchmark": benchmark, "waiting": 20 * servers.concurrency}
        try:
            yield Panel(Roles(**roles), args.trace, loop=loop, **options)
        finally:
            for dispatcher in dispatchers.values():
                loop.run_until_complete(dispatcher.close())
                loop.run_until_complete(dispatcher.server.close())
            loop.close()
