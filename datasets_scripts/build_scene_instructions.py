"""Build triplets from unlabelled pictures of scenes, as InstructCIR does; the oracle captions and reformulates.

    python datasets_scripts/build_scene_instructions.py --output data/scene_instructions
    python datasets_scripts/build_scene_instructions.py --output data/scene_instructions_random --group background

The pictures are like those of the training triplets of the scenes benchmark, and none shows a scene of its galleries;
nothing else is taken from the scene graph: pairs are drawn at random within groups, an oracle is asked for the caption
of each picture and for the change between two captions in at most twelve words, and all goes through
`contextcir generate` as it would with a multimodal model on real images. A group is a family of pictures, each a few
edits away from another (as the frames of a film, or the photographs of a product), or all pictures with a background
(as a class of ImageNet, of which the paper draws its pairs): there the twelve words say a part of what differs.

The output is the folder of that run, with the pictures and their truth beside it in `pictures/`. Same arguments, same
triplets. A build that was interrupted goes on with the same command.
"""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm
from transformers.hf_argparser import HfArg

from contextcir.benchmarks.scenes import SPLITS, load_scenes
from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.scenes import Scene, render, sample_family, scene_to_json
from contextcir.scenes.oracle import Oracle
from contextcir.scenes.truth import Truth

OF_PICTURES = ("num_pictures", "group", "scenes", "image_size", "seed")


@dataclass
class Arguments:
    """What to build."""

    output: str = HfArg(help="Folder of the run of contextcir generate.")
    num_pairs: int = HfArg(default=20000, help="Pairs of pictures that are drawn.")
    num_pictures: int = HfArg(default=20000, help="Pictures that there are to draw from, or a few more.")
    group: Literal["family", "background"] = HfArg(
        default="family", help="What both pictures of a pair have in common."
    )
    scenes: str = HfArg(default="data/scenes", help="Benchmark whose scenes are left out.")
    image_size: int = HfArg(default=96, help="Side of the pictures in pixels.")
    seed: int = HfArg(default=0, help="Seed of everything.")

    def __post_init__(self):
        for name in ("num_pairs", "num_pictures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


def scenes_of_benchmark(folder: str) -> set[Scene]:
    """What the pictures of its galleries show."""
    return {scene for split in SPLITS for scene in load_scenes(folder, split).values()}


def draw_pictures(args: Arguments, folder: Path) -> None:
    """
    Families of pictures, until there are enough, with `truth.jsonl` at the end of it all; unless they are there.

    Raises:
        ValueError: Those that are there were drawn with other arguments.
    """
    asked, drawn = {name: getattr(args, name) for name in OF_PICTURES}, folder / "drawn.json"
    if (folder / "truth.jsonl").is_file():
        there = json.loads(drawn.read_text(encoding="utf-8")) if drawn.is_file() else {}
        if other := [name for name in OF_PICTURES if there.get(name) != asked[name]]:
            raise ValueError(
                f"The pictures in {folder} were drawn with {other[0]} {there.get(other[0])}, got {asked[other[0]]}."
                " Choose another --output."
            )
        return
    shutil.rmtree(folder, ignore_errors=True)  # what was interrupted, perhaps with other arguments
    folder.mkdir(parents=True)
    drawn.write_text(json.dumps(asked), encoding="utf-8")
    unseen, rng = scenes_of_benchmark(args.scenes), random.Random(f"instructions {args.seed}")
    rows, families = [], 0
    with tqdm(total=args.num_pictures, desc="pictures", unit="picture", mininterval=1) as progress:
        while len(rows) < args.num_pictures:
            family = dict.fromkeys(scene for query in sample_family(rng) for scene in (query.reference, query.target))
            if unseen & family.keys():
                continue
            for number, scene in enumerate(family):
                group = scene.background if args.group == "background" else f"{families:06d}"
                path = f"{group}/{families:06d}-{number}.jpg"
                (folder / group).mkdir(parents=True, exist_ok=True)
                render(scene, rng.getrandbits(48), args.image_size).save(folder / path, quality=92)
                rows.append({"image": path, "scene": scene_to_json(scene)})
            families += 1
            progress.update(len(family))
    partial = folder / "truth.partial"
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(folder / "truth.jsonl")


def main(argv: Sequence[str] | None = None) -> int:
    """Builds pictures and triplets. Returns the exit code of `contextcir generate`."""
    argv = sys.argv[1:] if argv is None else argv
    (args,) = CommandParser([Arguments], "contextcir data scene-instructions", __doc__).parse(argv)
    pictures = Path(args.output, "pictures")
    draw_pictures(args, pictures)
    with Oracle(Truth.from_folder(pictures), seed=args.seed) as url:
        pairs = ["--images", str(pictures), "--num_pairs", str(args.num_pairs), "--seed", str(args.seed)]
        server = ["--model", "oracle", "--base_url", url, "--free"]
        command = [
            sys.executable,
            "-m",
            "contextcir.cli.generate",
            "--recipe",
            "instructcir",
            *pairs,
            *server,
            "--output",
            args.output,
        ]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(run(main, "contextcir data scene-instructions"))
