"""Build pairs of scenes with known differences, to try `contextcir generate` without a multimodal model.

    contextcir data scene-pairs --output data/scene_pairs --num_pairs 200
    contextcir oracle --truth data/scene_pairs --port 8000

A target scene is its reference scene after one to five edits, drawn as a picture of its own. The folder holds

- `images/BACKGROUND/*.jpg`: the pictures, in one folder for each background. So they also serve as groups of
  unlabelled images;
- `pairs.json`: a list of {"reference_image", "target_image"} as in good4cir, with paths relative to the folder;
- `truth.jsonl`: the scene of each picture, and a text and the target scene of each pair
  ([`~contextcir.scenes.truth.Truth`]).

Same arguments, same files.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.runtime.leaving import leave_with
from contextcir.scenes import MAX_EDITS, Scene, render, sample_query, scene_to_json


@dataclass
class Arguments:
    """Options of the builder."""

    _argument_group_name = "Pairs"

    output: str = HfArg(help="Folder for the pictures, pairs.json and truth.jsonl.")
    num_pairs: int = HfArg(default=200, help="Number of pairs, of two pictures each.")
    image_size: int = HfArg(default=96, help="Side of the pictures in pixels.")
    seed: int = HfArg(default=0, help="Seed of the pairs and pictures.")

    def __post_init__(self):
        if self.num_pairs < 1:
            raise ValueError(f"num_pairs must be at least 1, got {self.num_pairs}.")


def save_picture(root: Path, path: str, scene: Scene, nuisance: int, image_size: int) -> dict[str, Any]:
    """Draw a scene into a JPEG file, with a path relative to `root`. Returns the row of `truth.jsonl`."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    render(scene, nuisance, image_size).save(root / path, quality=92)
    return {"image": path, "scene": scene_to_json(scene)}


def main(argv: Sequence[str]) -> None:
    """Build the pictures and both files."""
    (args,) = CommandParser([Arguments], "contextcir data scene-pairs", __doc__).parse(argv)
    root, rng = Path(args.output), random.Random(f"pairs {args.seed}")
    if any((root / "images").rglob("*.jpg")):  # they would be missing in the new truth
        raise ValueError(f"{root / 'images'} holds pictures already. Choose another output, or remove the folder.")
    pairs, pictures, queries = [], [], []
    for number in tqdm(range(args.num_pairs), desc="pairs", unit="pair", mininterval=1):
        query = sample_query(rng, rng.randint(1, MAX_EDITS))
        pair = {}
        for side, scene in (("reference", query.reference), ("target", query.target)):
            path = pair[f"{side}_image"] = f"images/{scene.background}/{number:06d}-{side}.jpg"
            pictures.append(save_picture(root, path, scene, rng.getrandbits(48), args.image_size))
        pairs.append(pair)
        row = {"query": str(number), "reference": pair["reference_image"], "text": query.text}
        queries.append(row | {"target": scene_to_json(query.target)})
    (root / "pairs.json").write_text(json.dumps(pairs, indent=1) + "\n", encoding="utf-8")
    lines = (json.dumps(row) + "\n" for row in [*pictures, *queries])
    (root / "truth.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{len(pairs):,} pairs, {len(pictures):,} pictures, written to {root}")


if __name__ == "__main__":
    leave_with(lambda: run(main, "contextcir data scene-pairs"))
