"""Rewrite the captions of CIRR's training pairs, as ConText-CIR does for CIRR_R (section 4.1).

    python datasets_scripts/build_cirr_r.py --data_root CIRR --output data/cirr_r
    python datasets_scripts/build_cirr_r.py --data_root CIRR --output data/cirr_r --model gpt-4o --max_usd 500

The first command writes `pairs.json` and ends; with a `--model`, `generate_captions.py` goes on with the pairs and
takes all further options. The caption that people wrote stays beside the new ones, as `original_caption`, and a new
one that says the same is dropped. `--test_sets` with the folder that CIRR is in leaves out images that models are
measured on.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from contextcir.benchmarks.cirr import training_triplets
from contextcir.benchmarks.files import find_root
from contextcir.cli import generate
from contextcir.cli.options import CommandParser
from contextcir.cli.running import run


@dataclass
class Arguments:
    """Where CIRR is, and where its new captions go."""

    data_root: str = HfArg(help="CIRR in its authors' layout, or a folder with such a folder, cirr.")
    output: str = HfArg(help="Folder for the pairs and for all that is made of them.")


def write_pairs(data_root: str, path: Path) -> int:
    """
    Write the pairs of CIRR's training split.

    Args:
        data_root (`str`): Folder in the layout of the authors.
        path (`Path`): The JSON file.

    Returns:
        `int`: How many there are. Of annotations of one pair of images the first counts: what a caption is made of
        is the images.

    Raises:
        `ValueError`: see [`~contextcir.benchmarks.cirr.training_triplets`].
    """
    pairs = {}
    for row in training_triplets(str(find_root(data_root, "cirr"))):
        pairs.setdefault(
            (row["reference_id"], row["target_id"]),
            {
                "reference_image": str(Path(row["reference_image"]).resolve()),
                "target_image": str(Path(row["target_image"]).resolve()),
                "reference_id": row["reference_id"],
                "target_id": row["target_id"],
                "original_caption": row["modification_text"],
            },
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(pairs.values()), indent=1, ensure_ascii=False), encoding="utf-8")
    return len(pairs)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pairs and, with a model, caption them. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args, others = CommandParser([Arguments], "contextcir data cirr-r", __doc__).parse_known(argv)
    path = Path(args.output) / "pairs.json"
    print(f"{write_pairs(args.data_root, path):,} pairs written to {path}", flush=True)
    if others:
        return generate.main(["--pairs", str(path), "--output", args.output, *others])
    return 0


if __name__ == "__main__":
    sys.exit(run(main, "contextcir data cirr-r"))
