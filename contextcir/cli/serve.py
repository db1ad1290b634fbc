"""Serve a stored gallery: a page to search it in a browser, and an API.

    contextcir serve my-gallery
    contextcir serve my-gallery --port 9000 --examples examples.jsonl
    contextcir serve my-gallery --public --token "$TOKEN"
    contextcir serve my-gallery --trace judged --chat_model Qwen/Qwen2.5-VL-7B-Instruct \\
        --base_url http://localhost:8000/v1 --free

Only this machine reaches the server, unless `--public` is given. Then every request needs a token, which is printed
as part of the page's address; put a proxy with TLS in front of it. Uploads are held in memory until they are answered,
and nothing that a user types or chooses is logged.

The gallery may be rebuilt meanwhile: the server changes over when the new generation is whole. The page shows where
the model looks for noun phrases if the model has such maps and the extra `parse` is installed. It re-ranks by
ImageScope if there are chat servers; their answers are kept in `--trace`. `/openapi.json` documents the API.
"""

import json
import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.hf_argparser import HfArg

from contextcir.cli.engine_options import EngineChoice
from contextcir.cli.gallery_options import ModelChoice
from contextcir.cli.imagescope_arguments import ImageScopeArguments
from contextcir.cli.options import CommandParser
from contextcir.cli.servers import ServerArguments

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
GRACE = 5  # seconds that requests have to finish when the server is stopped
LAST = 8.5  # seconds after which the process ends, whatever it does


@dataclass
class ServeArguments:
    """What is served, and to whom."""

    _argument_group_name = "Server"

    gallery: str = HfArg(help="Folder of the gallery.")
    threads: int | None = HfArg(default=None, help="CPU threads of the model; by default all cores.")
    host: str = HfArg(default=LOOPBACK, help="Address to listen on. Another one than this machine's needs --public.")
    port: int = HfArg(default=8080, help="Port; 0: any free one.")
    public: bool = HfArg(default=False, help=f"Let other machines in, with a token (by default on {EVERYWHERE}).")
    token: str | None = HfArg(default=None, help="Token that requests must carry; with --public one is made.")
    examples: str | None = HfArg(
        default=None, help='File of lines {"id": ..., "text": ...} that the page begins with.'
    )
    queue: int = HfArg(default=64, help="Searches that wait or run at a time. The next one is answered 429.")
    batch: int = HfArg(default=16, help="Most searches of one forward pass.")
    log_requests: bool = HfArg(default=False, help="Print method, route, status and time of each request.")

    def __post_init__(self):
        local = self.host in (LOOPBACK, "localhost", "::1")
        if self.public and local:
            self.host = EVERYWHERE
        elif not self.public and not local:
            raise ValueError(f"Other machines reach {self.host}: give --public, which asks them for a token.")
        if self.public and self.token is None:
            self.token = secrets.token_urlsafe(24)
        if not 0 <= self.port <= 65535 or (self.threads is not None and self.threads < 1):
            raise ValueError(f"Got port {self.port} and threads {self.threads}, expected 0 to 65535 and at least 1.")


def main(argv: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM."""
    kinds = (ServeArguments, ModelChoice, EngineChoice, ImageScopeArguments, ServerArguments)
    args, choice, engine, scope, servers = CommandParser(kinds, "contextcir serve", __doc__, ("gallery",)).parse(argv)
    from contextcir.cli.serve_rerank import check, reranker
    from contextcir.serving import create_app
    from contextcir.serving.settings import LOOPBACK as OWN_NAMES
    from contextcir.serving.settings import Settings

    check(scope, servers)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("contextcir.serving").setLevel(logging.INFO if args.log_requests else logging.ERROR)
    settings = Settings(token=args.token, hosts=None if args.public else OWN_NAMES, queue=args.queue, batch=args.batch)
    examples = read_examples(args.examples) if args.examples else []
    listening = listen(args.host, args.port)  # before the model is loaded: a port that is taken is known at once
    gallery, abilities = open_gallery(args, choice, engine)
    judge = reranker(scope, servers)
    app = create_app(gallery, settings=settings, rerank=judge, examples=examples, **abilities)
    print(f"{len(gallery):,} images of {args.gallery}, embedded by {gallery.manifest.encoder.model}.")
    run(app, listening, f"{address(args, listening)}  (Ctrl-C stops the server)")
    if judge is not None and not judge.close(1):
        os._exit(0)  # a question to a chat model is on its way; the ledger knows, and is whole
    return 0


def open_gallery(args: ServeArguments, choice: ModelChoice, engine: EngineChoice) -> tuple[Any, dict[str, Any]]:
    """Load the model and open the gallery. Returns it, and what the model and this installation can do beside."""
    import torch

    from contextcir.retrieval.base import Gallery
    from contextcir.retrieval.store.changes import require

    if args.threads:
        torch.set_num_threads(args.threads)
    model, processor, retriever = choice.load(require(Path(args.gallery)).encoder)

    def open_again() -> Any:
        gallery = Gallery.open(args.gallery, retriever)
        engine.open(gallery)
        return gallery

    gallery, abilities = open_again(), dict[str, Any](reopen=open_again)
    try:
        from contextcir.phrases.extractor import NounPhraseExtractor

        extractor = NounPhraseExtractor()
        abilities["phrases"] = lambda text: extractor.extract([text])[0]
        if hasattr(model, "get_concept_attentions"):
            abilities["attention"] = Attention(model, processor)
    except ImportError as error:
        print(f"Without noun phrases: {error}", file=sys.stderr)
    return gallery, abilities


@dataclass(frozen=True)
class Looks:
    """The reference image as the model sees it, and for each phrase where it looks, in context and isolated."""

    image: Any
    context: list
    isolated: list


class Attention:
    """Find out where a model looks for noun phrases. Needs no matplotlib, as figures do."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model, processor

    def __call__(self, image: Any, text: str, phrases: Sequence[Any]) -> Looks:
        import numpy as np
        from PIL import Image

        from contextcir.evaluation.attention import attention_maps

        count, settings = len(phrases), self.processor.image_processor
        maps = attention_maps(self.model, self.processor, [image] * count, [text] * count, phrases)
        pixels = self.processor(images=[image], return_tensors="pt")["pixel_values"][0].permute(1, 2, 0).numpy()
        pixels = pixels * np.array(settings.image_std) + settings.image_mean  # (height, width, 3)
        return Looks(Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8)), *maps)


def read_examples(path: str) -> list[tuple[str, str]]:
    """Read ids with texts. Raises a `ValueError` that names the line if one is no such object."""
    found = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                one = json.loads(line)
                found.append((str(one["id"]), str(one.get("text", ""))[:500]))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f'{path}, line {number}: expected {{"id": ..., "text": ...}} ({error!r}).') from error
    return found


def listen(host: str, port: int) -> socket.socket:
    """Bind an address. Raises an `OSError` that says which one is taken."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise OSError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}). Give another --port."
        ) from error
    return found


def address(args: ServeArguments, listening: socket.socket) -> str:
    """The address of the page, with the token if there is one."""
    host = socket.gethostname() if args.host in (EVERYWHERE, "::") else args.host
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{listening.getsockname()[1]}/" + (f"#token={args.token}" if args.token else "")


def run(app: Any, listening: socket.socket, ready: str) -> None:
    """Run a server, and print `ready` when it answers. When it is told to stop, it finishes open requests for some
    seconds."""
    import signal

    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            print(ready, flush=True)

        def handle_exit(self, sig, frame):
            last = threading.Timer(LAST, os._exit, (1,))  # something hangs: a disk, a device
            last.daemon = True
            last.start()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=30,
    )
    # uvicorn raises the signal again at its end, for whoever handled it before: here, that was the wish to stop.
    previous = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        Server(config).run(sockets=[listening])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    from contextcir.cli.main import script

    script("serve")
