"""Write what BASIC knows of scenes without seeing a test image: two corpora, and images of the training split.

    python -m research.scenes_words --data data/scenes --output data/scenes_words
    contextcir benchmark --retriever basic --clip checkpoints/scenes-clip-tiny --benchmark scenes \\
        --data_root data/scenes --corpus data/scenes_words/objects.txt \\
        --corpus_styles data/scenes_words/backgrounds.txt --corpus_images data/scenes_words/train_images
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import load_dataset

from contextcir.scenes.world import BACKGROUNDS, COLOURS, SHAPES, SIZES

IMAGES = 1000


def main(argv: Sequence[str]) -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="data/scenes", help="folder of `contextcir data scenes`")
    parser.add_argument("--output", default="data/scenes_words", help="folder to write")
    args = parser.parse_args(argv)
    folder = Path(args.output, "train_images")
    folder.mkdir(parents=True, exist_ok=True)
    objects = map(" ".join, itertools.product(SIZES, COLOURS, SHAPES))
    terms = {"objects": objects, "backgrounds": (f"{name} background" for name in BACKGROUNDS)}
    for name, lines in terms.items():
        Path(args.output, f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    files = sorted(map(str, Path(args.data, "triplets").glob("train-*.parquet")))
    triplets = load_dataset("parquet", data_files=files, split="train")
    for place in range(min(IMAGES, len(triplets))):
        triplets[place]["target_image"].save(folder / f"{place:04d}.png")
    print(f"Written: {args.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
