"""Publish CIRR, CIRCO, FashionIQ or LaSCo, from the layout of their authors, as a Hugging Face dataset.

    python datasets_scripts/build_published.py --benchmark cirr --data_root CIRR --output data/cirr
    python datasets_scripts/add_noun_phrases.py data/cirr/triplets
    accelerate launch train.py configs/cirr_vit_b.yaml

    python datasets_scripts/build_published.py --benchmark circo --data_root CIRCO --splits val --output data/circo

The benchmark's splits become the configurations `gallery`, `queries` and `relevance`, its training data `triplets`,
images inside, byte for byte. Counts that are not those of the official release and images that cannot be read end the
build. Whether the images may be passed on is for you to judge: `--push_to_hub` makes a private dataset.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData
from tqdm import tqdm
from transformers.hf_argparser import HfArg

from contextcir.benchmarks import circo, cirr, fashioniq, lasco
from contextcir.benchmarks.files import find_root
from contextcir.benchmarks.published import FEATURES, publish
from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.data.hub import upload_dataset
from contextcir.data.images import stored_image
from contextcir.data.parquet import write_parquet
from contextcir.data.triplets import UNPARSED_FEATURES

BENCHMARKS = {"cirr": cirr, "circo": circo, "fashioniq": fashioniq, "lasco": lasco}
IMAGES = ("reference_image", "target_image")


@dataclass
class Arguments:
    """What to publish."""

    benchmark: str = HfArg(help=f"One of {', '.join(BENCHMARKS)}.")
    data_root: str = HfArg(help="Folder in the layout of the authors.")
    output: str = HfArg(help="Folder for the Parquet files and the card.")
    splits: list[str] | None = HfArg(
        default=None, help="Splits, 'train' for the triplets; by default all that there are."
    )
    push_to_hub: str | None = HfArg(default=None, help="Hub name to publish under (private).")

    def __post_init__(self):
        if self.benchmark not in BENCHMARKS:
            raise ValueError(f"There is no benchmark {self.benchmark!r}. Choose one of {', '.join(BENCHMARKS)}.")
        known = splits_of(BENCHMARKS[self.benchmark])
        self.splits = self.splits or known
        if unknown := [split for split in self.splits if split not in known]:
            raise ValueError(f"{self.benchmark} has the splits {', '.join(known)}, got {unknown[0]!r}.")


def splits_of(module) -> list[str]:
    """The splits that a benchmark is measured on, and `train` where it has training data."""
    return [*module.SPLITS, *(["train"] if hasattr(module, "training_triplets") else [])]


def main(argv: Sequence[str] | None = None) -> dict[str, int]:
    """Builds, and pushes if asked to. Returns the rows of each file."""
    argv = sys.argv[1:] if argv is None else argv
    (args,) = CommandParser([Arguments], "contextcir data published", __doc__).parse(argv)
    module, output = BENCHMARKS[args.benchmark], Path(args.output)
    root, counts = str(find_root(args.data_root, args.benchmark)), {}
    for split in args.splits:
        if split != "train":
            counts |= publish(module.load(root, split), output, split)
            continue
        rows = tqdm(module.training_triplets(root), desc="triplets", unit="triplet")
        embedded = (row | {name: stored_image(row[name], f"{row['id']}, {name}") for name in IMAGES} for row in rows)
        counts["triplets train"] = write_parquet(embedded, UNPARSED_FEATURES, output / "triplets", "train").rows

    names = {config: [name for name in counts if name.startswith(f"{config} ")] for config in (*FEATURES, "triplets")}
    configs = [
        {
            "config_name": config,
            "data_files": [
                {"split": split, "path": f"{config}/{split}-*.parquet"}
                for split in (name.partition(" ")[2] for name in found if counts[name])
            ],
        }
        for config, found in names.items()
        if found
    ]
    card = DatasetCard.from_template(
        card_data=DatasetCardData(license="other", tags=["composed-image-retrieval"], configs=configs),
        template_path=str(Path(__file__).parent / "cards" / "published.md"),
        name=args.benchmark,
        description=module.__doc__.strip().split("\n\n")[0],
        counts=counts,
        source=module.SOURCE,
        licence=module.LICENCE,
        citation=module.CITATION,
        with_triplets="train" in args.splits,
    )
    card.save(output / "README.md")
    for name, count in counts.items():
        print(f"{name}: {count:,}")
    print(f"Written: {output}")
    if args.push_to_hub:
        upload_dataset(output, args.push_to_hub)
    return counts


if __name__ == "__main__":
    sys.exit(run(main, "contextcir data published"))
