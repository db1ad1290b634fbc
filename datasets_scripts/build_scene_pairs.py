"""Build pairs of related pictures with known differences: something to try `generate_captions.py` on, without a model.

    python datasets_scripts/build_scene_pairs.py --output data/scene_pairs --num_pairs 200
    python -m contextcir.scenes.oracle --truth data/scene_pairs --port 8000

A target is its reference after one to five edits, in a picture of its own. The folder holds

- `images/BACKGROUND/…jpg`: the pictures, in a folder for each background, so that they also serve as unlabelled images
  in groups;
- `pairs.json`: a list of {"reference_image", "target_image"}, as good4cir has it, paths beginning at the folder;
- `truth.jsonl`: what each picture shows and, as a query, how its pair might be worded
  ([`~contextcir.scenes.truth.Truth`]).

Same arguments, same files.
"""

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.scenes import MAX_EDITS, Scene, render, sample_query
from contextcir.scenes.ground_truth import scene_to_json


@dataclass
class Arguments:
    """What to build."""

    output: str = HfArg(help="Folder for the pictures, pairs.json and truth.jsonl.")
    num_pairs: int = HfArg(default=200, help="Pairs; each has two pictures of its own.")
    image_size: int = HfArg(default=96, help="Side of the pictures in pixels.")
    seed: int = HfArg(default=0, help="Seed of everything.")

    def __post_init__(self):
        if self.num_pairs < 1:
            raise ValueError(f"num_pairs must be at least 1, got {self.num_pairs}")


def main(argv: Sequence[str] | None = None) -> None:
    """Build everything into the output folder."""
    argv = sys.argv[1:] if argv is None else argv
    (args,) = CommandParser([Arguments], "contextcir data scene-pairs", __doc__).parse(argv)
    root, rng = Path(args.output), random.Random(f"pairs {args.seed}")
    if any((root / "images").rglob("*.jpg")):  # which the new truth would not know
        raise ValueError(f"{root / 'images'} holds pictures already. Choose another output, or remove the folder.")
    pairs, pictures, queries = [], [], []

    def picture(scene: Scene, name: str) -> str:
        path = f"images/{scene.background}/{name}.jpg"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        render(scene, rng.getrandbits(48), args.image_size).save(root / path, quality=92)
        pictures.append({"image": path, "scene": scene_to_json(scene)})
        return path

    for number in tqdm(range(args.num_pairs), desc="pairs", unit="pair", mininterval=1):
        query = sample_query(rng, rng.randint(1, MAX_EDITS))
        reference = picture(query.reference, f"{number:06d}-reference")
        target = picture(query.target, f"{number:06d}-target")
        pairs.append({"reference_image": reference, "target_image": target})
        queries.append(
            {"query": str(number), "reference": reference, "text": query.text, "target": scene_to_json(query.target)}
        )
    (root / "pairs.json").write_text(json.dumps(pairs, indent=1) + "\n", encoding="utf-8")
    lines = (json.dumps(row) + "\n" for row in [*pictures, *queries])
    (root / "truth.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{len(pairs):,} pairs, {len(pictures):,} pictures, written to {root}")


if __name__ == "__main__":
    sys.exit(run(main, "contextcir data scene-pairs"))
