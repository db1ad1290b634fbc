"""Rewrite the captions of CIRR's training pairs, as ConText-CIR does for CIRR_R (section 4.1).

    contextcir data cirr-r --data_root CIRR --output data/cirr_r
    contextcir data cirr-r --data_root CIRR --output data/cirr_r --model gpt-4o --max_usd 500

The first command only writes `pairs.json`. With a `--model`, `contextcir generate` captions the pairs, and takes all
further options. The human caption stays in the column `original_caption`; a new caption that says the same is dropped.
`--test_sets` with the folder of CIRR leaves out images that models are measured on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers.hf_argparser import HfArg

from contextcir.benchmarks.cirr import training_triplets
from contextcir.benchmarks.files import find_root
from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.runtime.leaving import leave_with
from datasets_scripts.pair_files import write_and_caption


@dataclass
class Arguments:
    """Options of the builder."""

    _argument_group_name = "Pairs"

    data_root: str = HfArg(help="CIRR in its authors' layout, or a folder with such a folder, cirr.")
    output: str = HfArg(help="Folder of the pairs and their captions.")
    missing: Literal["error", "skip"] = HfArg(
        default="error", help="Missing images: an error, or skip the pairs that need one."
    )


def training_pairs(data_root: str, missing: str = "error") -> list[dict[str, str]]:
    """Return the pairs of CIRR's training split, as rows of `pairs.json`. Of several annotations of a pair, the first
    is kept, because the new captions depend on the images only. Raises `ValueError` as
    [`~contextcir.benchmarks.cirr.training_triplets`] does."""
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for row in training_triplets(str(find_root(data_root, "cirr")), missing=missing):
        images = {name: str(Path(row[name]).resolve()) for name in ("reference_image", "target_image")}
        ids = {name: row[name] for name in ("reference_id", "target_id")}
        pairs.setdefault(tuple(ids.values()), {**images, **ids, "original_caption": row["modification_text"]})
    return list(pairs.values())


def main(argv: Sequence[str]) -> int:
    """Write the pairs and, with a model, caption them. Returns the exit code."""
    args, others = CommandParser([Arguments], "contextcir data cirr-r", __doc__).parse_known(argv)
    return write_and_caption(training_pairs(args.data_root, args.missing), args.output, others)


if __name__ == "__main__":
    leave_with(lambda: run(main, "contextcir data cirr-r"))
