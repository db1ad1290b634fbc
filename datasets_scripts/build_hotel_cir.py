"""Make triplets for a new domain from its images alone, as ConText-CIR does for Hotel-CIR (section 4.1).

    contextcir data hotel-cir --images hotels --clip openai/clip-vit-large-patch14 --output out
    contextcir data hotel-cir --images hotels --clip openai/clip-vit-large-patch14 --output out \\
        --model gpt-4o --max_usd 500

A pair is two images whose CLIP similarity is within bounds: similar, but not the same picture. The paper says
"visually similar" and gives no bounds. The first command only writes `pairs.json`, with the similarities, and
`pairs.png`, which shows the ten nearest and the ten farthest pairs: look at them and move the bounds. Similarities of
another CLIP have another scale. With a `--model`, `contextcir generate` captions the pairs, and takes all further
options.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.data.folders import images_in
from contextcir.data.pairs import Pair, mine_pairs
from contextcir.runtime.leaving import leave_with
from datasets_scripts.pair_files import write_and_caption


@dataclass
class Arguments:
    """Options of the builder."""

    _argument_group_name = "Pairs"

    images: str = HfArg(help="Folder of images, including its subfolders.")
    clip: str = HfArg(help="CLIP that measures similarity: folder or Hub name.")
    output: str = HfArg(help="Folder of the pairs and their captions.")
    low: float = HfArg(default=0.75, help="Lowest cosine similarity of a pair.")
    high: float = HfArg(default=0.95, help="Highest cosine similarity; above it, two pictures count as one.")
    pairs_per_image: int = HfArg(default=1, help="Most pairs with the same reference image.")
    pairs_seed: int = HfArg(default=0, help="Seed that decides which image of a pair is the reference.")
    batch_size: int = HfArg(default=64, help="Images that CLIP encodes at a time.")


def similar_pairs(args: Arguments) -> list[dict[str, Any]]:
    """
    Encode all images with CLIP, and return the pairs with a similarity within the bounds, as rows of `pairs.json`.

    Raises:
        ValueError: There are no images, the bounds are wrong, or no two images are within them.
        ImageError: An image cannot be read.
    """
    import torch
    from transformers import CLIPModel, CLIPProcessor

    from contextcir.retrieval.base import Gallery
    from contextcir.retrieval.baselines import clip_baselines

    names, root = images_in(args.images), Path(args.images).resolve()
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    clip, processor = CLIPModel.from_pretrained(args.clip).to(device), CLIPProcessor.from_pretrained(args.clip)
    retriever = clip_baselines(clip, processor, batch_size=args.batch_size)["CLIP, image only"]
    embeds = retriever.encode_gallery(Gallery(names, [root / name for name in names])).cpu().numpy()
    bounds = {"low": args.low, "high": args.high}
    pairs = mine_pairs(embeds, **bounds, pairs_per_image=args.pairs_per_image, seed=args.pairs_seed)
    if not pairs:
        raise ValueError(
            f"No two of {len(names)} images have a similarity of {args.low} to {args.high}. Change --low and --high."
        )
    rows = []
    for *places, similarity in pairs:
        reference, target = (names[place] for place in places)
        images = {"reference_image": str(root / reference), "target_image": str(root / target)}
        ids = {"reference_id": reference, "target_id": target}
        rows.append({**images, **ids, "similarity": round(similarity, 4)})
    return rows


def main(argv: Sequence[str]) -> int:
    """Write the pairs and, with a model, caption them. Returns the exit code."""
    args, others = CommandParser([Arguments], "contextcir data hotel-cir", __doc__).parse_known(argv)
    rows = similar_pairs(args)
    draw_pairs(rows, Path(args.output, "pairs.png"))
    return write_and_caption(rows, args.output, others)


def draw_pairs(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the nearest and the farthest pairs, where matplotlib is installed."""
    if not find_spec("matplotlib"):
        print(f"No {path.name} without matplotlib: pip install contextcir[demo]", file=sys.stderr)
        return
    from contextcir.visualization import pairs_figure, save_png

    save_png(pairs_figure([Pair(**row) for row in rows]), path)
    print(f"The nearest and the farthest pairs: {path}")


if __name__ == "__main__":
    leave_with(lambda: run(main, "contextcir data hotel-cir"))
