"""Make triplets for a new domain from its images alone, as ConText-CIR does for Hotel-CIR (section 4.1).

    python datasets_scripts/build_hotel_cir.py --images hotels --clip openai/clip-vit-large-patch14 --output out
    python datasets_scripts/build_hotel_cir.py --images hotels --clip openai/clip-vit-large-patch14 --output out \\
        --model gpt-4o --max_usd 500

Pairs are images that CLIP finds alike within bounds: hard, and not the same picture again. The paper says "visually
similar" and no more, so look at `pairs.json`, which the first command writes before it ends, and move the bounds until
the pairs are what you want; similarities of another CLIP are on another scale. With a `--model`,
`generate_captions.py` goes on with the pairs and takes all further options.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPModel, CLIPProcessor
from transformers.hf_argparser import HfArg

from contextcir.cli import generate
from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.data.images import images_in
from contextcir.data.pairs import mine_pairs
from contextcir.retrieval.base import Gallery
from contextcir.retrieval.baselines import clip_baselines


@dataclass
class Arguments:
    """Which images, and which of them make a pair."""

    images: str = HfArg(help="Folder of images, folders inside included.")
    clip: str = HfArg(help="CLIP by which images are alike: folder or Hub name.")
    output: str = HfArg(help="Folder for the pairs and for all that is made of them.")
    low: float = HfArg(default=0.75, help="Least cosine similarity of a pair.")
    high: float = HfArg(default=0.95, help="Largest: above, two pictures are one.")
    pairs_per_image: int = HfArg(default=1, help="Most pairs with an image as the reference.")
    pairs_seed: int = HfArg(default=0, help="Seed of which of two images is the reference.")
    batch_size: int = HfArg(default=64, help="Images that CLIP sees at a time.")


def write_pairs(args: Arguments, path: Path) -> int:
    """
    Encode all images, pair them and write the pairs with their ids, which are paths inside of the folder.

    Args:
        args ([`Arguments`]): What to do.
        path (`Path`): The JSON file.

    Returns:
        `int`: How many pairs there are.

    Raises:
        `ValueError`: There are no images, the bounds make no sense, or no two images are within them.
        `ImageError`: An image cannot be read.
    """
    names, root = images_in(args.images), Path(args.images).resolve()
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    clip, processor = CLIPModel.from_pretrained(args.clip).to(device), CLIPProcessor.from_pretrained(args.clip)
    retriever = clip_baselines(clip, processor, batch_size=args.batch_size)["CLIP, image only"]
    embeds = retriever.encode_gallery(Gallery(names, [root / name for name in names])).cpu().numpy()
    options = {"pairs_per_image": args.pairs_per_image, "seed": args.pairs_seed}
    pairs = mine_pairs(embeds, low=args.low, high=args.high, **options)
    if not pairs:
        raise ValueError(f"No two of {len(names)} images are {args.low} to {args.high} alike. Move the bounds.")
    rows = [
        {
            "reference_image": str(root / names[reference]),
            "target_image": str(root / names[target]),
            "reference_id": names[reference],
            "target_id": names[target],
        }
        for reference, target, _ in pairs
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    return len(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pairs and, with a model, caption them. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args, others = CommandParser([Arguments], "contextcir data hotel-cir", __doc__).parse_known(argv)
    path = Path(args.output) / "pairs.json"
    print(f"{write_pairs(args, path):,} pairs written to {path}", flush=True)
    if others:
        return generate.main(["--pairs", str(path), "--output", args.output, *others])
    return 0


if __name__ == "__main__":
    sys.exit(run(main, "contextcir data hotel-cir"))
