"""Serve the oracle: a chat server that answers about pictures of scenes, until it is interrupted.

contextcir oracle --truth data/scene_pairs --port 8000 --latency 0.05 --rate_429 0.05
"""

import logging
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.scenes.oracle.faults import Faults
from contextcir.scenes.oracle.server import Oracle
from contextcir.scenes.truth import Truth

logger = logging.getLogger("contextcir.scenes.oracle")


@dataclass
class OracleArguments:
    """The pictures to answer about, and the address of the server."""

    _argument_group_name = "Oracle"

    truth: str = HfArg(help="Folder with truth.jsonl and its pictures.")
    port: int = HfArg(default=8000, help="Port on 127.0.0.1; 0: any free port.")
    models: list[str] = HfArg(default_factory=lambda: ["oracle"], help="Model names that it serves.")
    api_key: str = HfArg(default="", help="Required API key; by default any key is accepted.")
    seed: int = HfArg(default=0, help="Seed of wording and faults.")


def main(argv: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM, then log a summary of the requests."""
    args, faults = CommandParser([OracleArguments, Faults], "contextcir oracle", __doc__).parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    truth = Truth.from_folder(args.truth)
    oracle = Oracle(truth, faults=faults, seed=args.seed, models=args.models, api_key=args.api_key, port=args.port)
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with oracle as url:
            logger.info("%s pictures known; serving %s at %s", f"{len(truth.pictures):,}", ", ".join(args.models), url)
            stop.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    logger.info("%s", oracle.summary())
    return 0
