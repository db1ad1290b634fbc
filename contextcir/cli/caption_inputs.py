"""Inputs of `contextcir generate`: pairs that are read or drawn, and test images that none of them may show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from transformers.hf_argparser import HfArg

if TYPE_CHECKING:
    from contextcir.captions.leakage import HeldOut
    from contextcir.data.pairs import Pair


@dataclass
class PairArguments:
    """Which pairs: those of a file or dataset, or some drawn from a folder of images."""

    _argument_group_name = "Pairs"

    pairs: str | None = HfArg(
        default=None, help="Pairs: a .json, .jsonl or .csv file, or a folder or Hub name of a dataset."
    )
    pairs_split: str = HfArg(default="train", help="Split, where the pairs are a dataset.")
    images: str | None = HfArg(default=None, help="Folder of images to draw pairs from instead.")
    num_pairs: int | None = HfArg(default=None, help="How many pairs to draw.")
    pairs_within: Literal["folder", "collection"] | None = HfArg(
        default=None, help="Draw pairs within each folder of images (a class; default), or among all."
    )
    folder_depth: int | None = HfArg(
        default=None,
        help="How many folders, from the top, make a class: of women/dresses/51727804/1.jpg, two are "
        "women/dresses. By default all.",
    )
    seed: int | None = HfArg(default=None, help="Seed of the pairs that are drawn; by default 0.")
    allow_urls: bool = HfArg(default=False, help="Whether images given as URLs are downloaded.")
    test_sets: str | None = HfArg(
        default=None, help="Folder with cirr, circo or fashioniq inside: pairs with their test images are left out."
    )

    def __post_init__(self):
        if (self.pairs is None) == (self.images is None):
            raise ValueError("Give either --pairs, or --images to draw pairs from.")
        if (self.images is None) != (self.num_pairs is None):
            raise ValueError("--images and --num_pairs go together.")
        of_images = [name for name in ("pairs_within", "folder_depth", "seed") if getattr(self, name) is not None]
        if self.images is None and of_images:
            raise ValueError(f"Pairs of a file are not drawn. Leave out --{of_images[0]}.")
        if self.folder_depth is not None and (self.folder_depth < 1 or self.pairs_within == "collection"):
            raise ValueError(
                f"folder_depth is at least 1, and of pairs within folders, got {self.folder_depth}. Pairs of any two"
                " images are --pairs_within collection."
            )


def choose_pairs(args: PairArguments, output: str) -> tuple[Sequence[Pair], str]:
    """The pairs that are asked for, read or drawn, and a sentence about them for the report."""
    from contextcir.data.folders import images_in
    from contextcir.data.pairs import Pair, read_pairs, sample_pairs

    if args.pairs:
        return read_pairs(args.pairs, split=args.pairs_split, allow_urls=args.allow_urls), "as they were given"
    root = Path(args.images or "")
    if Path(output).resolve().is_relative_to(root.resolve()):
        raise ValueError(f"The output folder {output} lies inside of {root}, and its figures would be drawn. Move it.")
    names = images_in(root)
    groups = ["" if args.pairs_within == "collection" else _class_of(name, args.folder_depth) for name in names]
    places = sample_pairs(groups, args.num_pairs or 0, seed=args.seed or 0)
    drawn = [(names[one], names[other]) for one, other in places]
    sizes = Counter(groups)
    alone = sum(size == 1 for size in sizes.values())
    origin = (
        f"drawn from {len(names):,} images in {len(sizes):,} groups, {alone:,} of them of one image, without a pair"
    )
    return [Pair(str(root / one), str(root / other), one, other) for one, other in drawn], origin


def _class_of(name: str, depth: int | None) -> str:
    return "/".join(name.split("/")[:-1][:depth])


def find_held_out(folder: str | None) -> tuple[HeldOut | None, str]:
    """The test images of the benchmarks in a folder, and a sentence about them for the card."""
    if folder is None:
        return None, "not looked for"
    from tqdm import tqdm

    from contextcir.benchmarks import circo, cirr, fashioniq
    from contextcir.captions.leakage import HeldOut

    images: list[tuple[str, Path]] = []
    counts: Counter[str] = Counter()
    for name, module in {"cirr": cirr, "circo": circo, "fashioniq": fashioniq}.items():
        if not Path(folder, name).is_dir():
            continue
        files = {
            Path(path)
            for split in module.SPLITS
            for part in module.load(str(Path(folder, name)), split, check_images=False)
            for path in part.gallery.images
        }
        images += [(name, path) for path in sorted(files)]
        counts[name] = len(files)
    if not images:
        raise ValueError(f"{folder} has none of the folders cirr, circo and fashioniq. Put a benchmark there.")
    held_out = HeldOut.from_files(tqdm(images, desc="test images", unit="image"))
    names = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
    return held_out, f"pairs with images of {names} were left out, by id and for {len(held_out.owners):,} by looks too"
