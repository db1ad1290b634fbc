"""Build ImageScope from its options: the four roles, their servers, and one ledger for each process."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from contextcir.chat.dispatch import Dispatcher
from contextcir.chat.ledger import Ledger
from contextcir.chat.server import ChatServer
from contextcir.cli.imagescope_arguments import IMAGESCOPE, PAPER_MODELS, ImageScopeArguments
from contextcir.cli.loading import load_clip, load_model
from contextcir.cli.retriever_arguments import CIREVL
from contextcir.cli.servers import ServerArguments
from contextcir.retrieval.base import Retriever
from contextcir.retrieval.baselines import clip_baselines
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.imagescope import ImageScope, Panel, ReasonedRetriever, Role, Roles
from contextcir.retrieval.store.cache import GalleryCache
from contextcir.retrieval.zero_shot import cirevl as cirevl_method
from contextcir.runtime.distributed import process_state
from contextcir.runtime.locations import locate
from modeling_contextcir import ContextCIRProcessor


def imagescope(
    args: ImageScopeArguments, servers: ServerArguments, clip: str, benchmark: str, device: torch.device, options: dict
) -> Iterator[tuple[str, Retriever]]:
    """Yield ImageScope with its name, and before it the earlier stages if they are to be measured."""
    options = {"keep": GalleryCache(Path(args.cache, "galleries"))} | options
    with panel_of(args, servers, benchmark) as panel:
        first: Retriever
        if args.rerank:
            first = DenseRetriever.from_model(*load_model(args.rerank, device), **options)
        else:
            model, processor = load_clip(clip, device), ContextCIRProcessor.from_pretrained(locate(clip))
            dense = clip_baselines(model, processor, **options)["CLIP, text only"]
            first = ReasonedRetriever(panel, dense, tau=args.tau)
        if args.after_each_stage:
            yield f"{IMAGESCOPE}, retrieved", first
            yield f"{IMAGESCOPE}, verified", ImageScope(panel, first, verified=args.verified, evaluated=0)
        yield IMAGESCOPE, ImageScope(panel, first, verified=args.verified, evaluated=args.evaluated)


def cirevl(
    args: ImageScopeArguments, servers: ServerArguments, clip: str, benchmark: str, device: torch.device, options: dict
) -> Iterator[tuple[str, Retriever]]:
    """Yield CIReVL with its name. Arguments as for [`imagescope`]."""
    options = {"keep": GalleryCache(Path(args.cache, "galleries"))} | options
    model, processor = load_clip(clip, device), ContextCIRProcessor.from_pretrained(locate(clip))
    with panel_of(args, servers, benchmark, cirevl_method.ROLES) as panel:
        dense = clip_baselines(model, processor, **options)["CLIP, text only"]
        yield CIREVL, cirevl_method.CirevlRetriever(panel, dense)


@contextmanager
def panel_of(
    args: ImageScopeArguments, servers: ServerArguments, benchmark: str, asked: Collection[str] = tuple(PAPER_MODELS)
) -> Iterator[Panel]:
    """Connect the roles that are asked to their servers, with a ledger and an equal share of the budget for each
    process. At the end, requests in flight get some time to finish."""
    state, loop = process_state(), asyncio.new_event_loop()
    trace, cache = args.trace or IMAGESCOPE, Path(args.cache).expanduser()  # the command requires a trace
    # The number of processes is a setting: with another one, the ledgers of missing processes would not be counted.
    settings = {"answers": IMAGESCOPE, "processes": state.num_processes}
    max_usd = servers.max_usd and servers.max_usd / state.num_processes
    dispatchers: dict[tuple[str, str], tuple[ChatServer, Dispatcher]] = {}
    roles = {}
    with Ledger(Path(trace, f"answers-{state.process_index}"), settings, max_usd) as ledger:
        for role in asked:
            model, url = args.server_of(role, servers.base_url)
            if (model, url) not in dispatchers:
                server = servers.build(model, url)
                dispatchers[model, url] = server, Dispatcher(server, ledger, concurrency=servers.concurrency)
            # Captions of another temperature are those of another captioner.
            name = model if servers.temperature is None else f"{model}, temperature {servers.temperature}"
            roles[role] = Role(name, dispatchers[model, url][1].ask)
        waiting = 20 * servers.concurrency
        try:
            others = {role: roles["reasoner"] for role in PAPER_MODELS}  # of a method without them, never asked
            yield Panel(Roles(**(others | roles)), trace, cache=cache, benchmark=benchmark, waiting=waiting, loop=loop)
        finally:
            for server, dispatcher in dispatchers.values():
                loop.run_until_complete(dispatcher.close())
                loop.run_until_complete(server.close())
            loop.close()
