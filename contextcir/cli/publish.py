"""Publish on the Hub: a trained model, a data set, a gallery, or a Space that serves a gallery's page.

    contextcir publish model runs/mine my-name/mine
    contextcir publish dataset data/mine my-name/my-data
    contextcir publish gallery my-gallery my-name/my-gallery --model my-name/mine
    contextcir publish space hf://my-name/my-gallery my-name/my-page

Everything is private unless `--public`. Published are the files that belong to the thing, by name, and nothing else
that lies in the folder. Paths of this machine are made relative, or replaced by names on the Hub. A key or token in
one of the files ends the command before anything is uploaded. After an interruption the same command goes on: what the
Hub has is not uploaded again. `contextcir publish KIND --help` lists the options.

`contextcir publish RUN NAME` publishes a model.
"""

import difflib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextcir.cli.options import UsageError

KINDS = {  # what is published -> what it is
    "model": "a trained model: weights, configs, code, card, records and figures",
    "dataset": "a data set: Parquet files, card and records",
    "gallery": "a gallery: its embeddings, and the images with --with_images",
    "space": "a Docker Space with the page of a gallery",
}


def main(argv: Sequence[str]) -> Any:
    """Publish, or list what can be published. Returns what the command of the kind returns."""
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {kind.ljust(8)}  {summary}" for kind, summary in KINDS.items()]
        print("\n".join([(__doc__ or "").strip(), "", *lines]))
        return 0
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1)
        if near and not Path(name).exists():
            raise UsageError(f"There is no folder {name!r}, and it is nothing to publish. Did you mean {near[0]}?")
        name, rest = "model", list(argv)
    return importlib.import_module(f"contextcir.cli.publish_{name}").main(rest)


if __name__ == "__main__":
    from contextcir.cli.main import script

    script("publish")
