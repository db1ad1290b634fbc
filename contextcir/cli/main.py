"""The command `contextcir`, and the table of what it can do."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from contextcir.cli.running import run
from contextcir.runtime.leaving import leave_with

COMMANDS = {  # name -> module with a `main`, what it does
    "tour": ("contextcir.cli.tour", "see in a minute what this library does"),
    "index": ("contextcir.cli.index", "embed images once, to search from then on"),
    "search": ("contextcir.cli.search", "search with an image, a text, or both"),
    "gallery": ("contextcir.cli.gallery", "add, remove, check and merge images of a gallery"),
    "serve": ("contextcir.cli.serve", "serve a gallery: a page to search it, and an API"),
    "train": ("contextcir.cli.train", "train a model on triplets"),
    "mine": ("contextcir.cli.mine", "mine hard negatives for triplets"),
    "benchmark": ("contextcir.cli.benchmark", "measure a model on a benchmark"),
    "compare": ("contextcir.cli.compare", "compare two measurements, with intervals"),
    "audit": ("contextcir.cli.audit", "find out what a model answers for the wrong reason"),
    "doctor": ("contextcir.cli.doctor", "check which benchmarks are on this disk"),
    "generate": ("contextcir.cli.generate", "write captions of differences with a chat model"),
    "ledger": ("contextcir.cli.ledger", "show what a chat model has cost, and save a damaged ledger"),
    "phrases": ("contextcir.cli.phrases", "find the noun phrases of texts or of a data set"),
    "ground": ("contextcir.cli.ground", "find where the noun phrases of triplets are in their images"),
    "visualize": ("contextcir.cli.visualize", "draw what a model finds, and where phrases look"),
    "export": ("contextcir.cli.export", "export a model as ONNX graphs"),
    "publish": ("contextcir.cli.publish", "publish a trained model on the Hub"),
    "oracle": ("contextcir.cli.oracle", "serve a stand-in for a multimodal model, on drawn scenes"),
    "data": ("contextcir.cli.data", "build data sets"),
    "env": ("contextcir.cli.env", "print versions, devices and extras"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command. Returns its exit code, see `contextcir/cli/running.py`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if argv[0] == "--version":
        from contextcir import __version__

        print(f"contextcir {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        advice = f"Did you mean {near[0]}?" if near else f"There are {', '.join(COMMANDS)}."
        print(f"contextcir: There is no command {name!r}. {advice}", file=sys.stderr)
        return 2
    return command(name, rest)


def command(name: str, argv: Sequence[str] | None = None) -> int:
    """Run one sub-command. Returns its exit code."""

    def run_module(argv):
        return importlib.import_module(COMMANDS[name][0]).main(argv)

    return run(run_module, f"contextcir {name}", argv)


def console() -> NoReturn:
    """`contextcir`, as it is installed."""
    leave_with(main)


def script(name: str) -> NoReturn:
    """One sub-command as a program of its own, as launchers of several processes start it."""
    leave_with(lambda: command(name))


def overview() -> str:
    """The help of `contextcir` itself."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "Composed image retrieval: train, measure and use models that search with an image and a text.",
            "",
            "Usage: contextcir COMMAND [FILE.yaml] [--option value ...]",
            "",
            *lines,
            "",
            "`contextcir COMMAND --help` lists the options of a command, `contextcir --version` prints the version.",
            "Exit codes: 0 done, 1 unusable input, 2 wrong option, 3 stopped by server or budget, 4 bad images left",
            "out, 5 too many questions to a model failed, 75 stopped by a signal, run it again, 130 interrupted.",
        ]
    )


if __name__ == "__main__":
    console()
