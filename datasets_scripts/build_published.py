"""Convert CIRR, CIRCO, FashionIQ or LaSCo from the authors' layout to a Hugging Face dataset.

    contextcir data published --benchmark cirr --data_root CIRR --output data/cirr
    contextcir data published --benchmark circo --data_root CIRCO --splits val --output data/circo

The splits of the benchmark become the configurations `gallery`, `queries` and `relevance`, and its training data
`triplets`. Image files are stored byte for byte. The build stops if the counts differ from the official release or an
image cannot be read; `--missing skip` builds without images that cannot be had any more. Check whether you may
redistribute the images: `--push_to_hub` creates a private dataset.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from tqdm import tqdm
from transformers.hf_argparser import HfArg

from contextcir.benchmarks import circo, cirr, fashioniq, lasco
from contextcir.benchmarks.files import find_root
from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.data.images import stored_image
from contextcir.runtime.leaving import leave_with
from datasets_scripts.publishing import finish, write_card

BENCHMARKS = {"cirr": cirr, "circo": circo, "fashioniq": fashioniq, "lasco": lasco}
NAMES = {"cirr": "CIRR", "circo": "CIRCO", "fashioniq": "FashionIQ", "lasco": "LaSCo"}
IMAGES = ("reference_image", "target_image")


@dataclass
class Arguments:
    """Options of the builder."""

    _argument_group_name = "Data"

    benchmark: str = HfArg(help=f"One of {', '.join(BENCHMARKS)}.")
    data_root: str = HfArg(help="Folder in the authors' layout.")
    output: str = HfArg(help="Folder for the Parquet files and the card.")
    splits: list[str] | None = HfArg(default=None, help="Splits; train are the triplets. By default all.")
    missing: Literal["error", "skip"] = HfArg(
        default="error",
        help="Missing images: an error, or skip them and the queries and triplets that need one. The card says so.",
    )
    push_to_hub: str | None = HfArg(default=None, help="Hub name to publish under (private).")

    def __post_init__(self):
        if self.benchmark not in BENCHMARKS:
            raise ValueError(f"There is no benchmark {self.benchmark!r}. Choose one of {', '.join(BENCHMARKS)}.")
        known = splits_of(BENCHMARKS[self.benchmark])
        self.splits = self.splits or known
        if unknown := [split for split in self.splits if split not in known]:
            raise ValueError(f"{self.benchmark} has the splits {', '.join(known)}, got {unknown[0]!r}.")


def splits_of(module: ModuleType) -> list[str]:
    """Return the splits of a benchmark, and `train` if it has training data."""
    return [*module.SPLITS, *(["train"] if hasattr(module, "training_triplets") else [])]


def main(argv: Sequence[str]) -> dict[str, int]:
    """Build the dataset, and push it if asked to. Returns `<configuration> <split>` -> number of rows."""
    (args,) = CommandParser([Arguments], "contextcir data published", __doc__).parse(argv)
    from contextcir.benchmarks.published import publish
    from contextcir.benchmarks.registry import load_benchmark
    from contextcir.data.parquet import write_parquet
    from contextcir.data.triplets import UNPARSED_FEATURES

    module, output = BENCHMARKS[args.benchmark], Path(args.output)
    root = str(find_root(args.data_root, args.benchmark))
    counts: dict[str, int] = {}
    for split in args.splits:
        if split != "train":
            counts |= publish(load_benchmark(args.benchmark, root, split, missing=args.missing), output, split)
            continue
        rows = tqdm(module.training_triplets(root, missing=args.missing), desc="triplets", unit="triplet")
        embedded = (row | {name: stored_image(row[name], f"{row['id']}, {name}") for name in IMAGES} for row in rows)
        counts["triplets train"] = write_parquet(embedded, UNPARSED_FEATURES, output / "triplets", "train").rows

    splits: dict[str, list[str]] = {}
    for name in (name for name, count in counts.items() if count):  # `datasets` reads no empty splits
        config, _, split = name.partition(" ")
        splits.setdefault(config, []).append(split)
    write_card(
        output,
        "published.md",
        splits,
        header={"license": "other", "pretty_name": NAMES[args.benchmark], "tags": ["composed-image-retrieval"]},
        rows=sum(counts.values()),
        name=args.benchmark,
        description=(module.__doc__ or "").strip().split("\n\n")[0],
        counts=counts,
        incomplete=args.missing == "skip",
        source=module.SOURCE,
        licence=module.LICENCE,
        citation=module.CITATION,
        with_triplets="train" in args.splits,
    )
    finish(output, counts, args.push_to_hub)
    return counts


if __name__ == "__main__":
    leave_with(lambda: run(main, "contextcir data published"))
