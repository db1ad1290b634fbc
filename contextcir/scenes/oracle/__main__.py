"""Serve the oracle until it is interrupted.

python -m contextcir.scenes.oracle --truth data/scene_pairs --port 8000 --latency 0.05 --rate_429 0.05
"""

from __future__ import annotations

import logging
import signal
import threading
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from ..truth import Truth
from .faults import Faults
from .server import Oracle

logger = logging.getLogger("contextcir.scenes.oracle")


@dataclass
class Arguments:
    """What to serve, and where."""

    truth: str = field(metadata={"help": "Folder with truth.jsonl and the pictures that it names."})
    port: int = field(default=8000, metadata={"help": "Port on 127.0.0.1; 0: any that is free."})
    models: list[str] = field(default_factory=lambda: ["oracle"], metadata={"help": "Names it answers to."})
    api_key: str = field(default="", metadata={"help": "Key that requests must bring; by default any will do."})
    seed: int = field(default=0, metadata={"help": "Seed of wording and faults."})


def main(argv=None) -> None:
    """Serve, and say at the end what came of everything."""
    args, faults = HfArgumentParser((Arguments, Faults)).parse_args_into_dataclasses(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _serve(args, faults)
    except (OSError, ValueError) as error:  # no such folder, a line that is not as it should be, a port that is taken
        raise SystemExit(f"{error}") from None


def _serve(args: Arguments, faults: Faults) -> None:
    truth = Truth.from_folder(args.truth)
    stop = threading.Event()
    oracle = Oracle(truth, faults=faults, seed=args.seed, models=args.models, api_key=args.api_key, port=args.port)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with oracle as url:
            logger.info("%s pictures known; serving %s at %s", f"{len(truth.pictures):,}", ", ".join(args.models), url)
            stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    logger.info("%s", oracle.summary())


if __name__ == "__main__":
    main()
