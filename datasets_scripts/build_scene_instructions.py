"""Build triplets from unlabelled pictures of scenes, as InstructCIR does, with an oracle in place of its chat models.

    contextcir data scene-instructions --output data/scene_instructions
    contextcir data scene-instructions --output data/scene_instructions_random --group background

Pictures are drawn like those of the training triplets of the scenes benchmark; none shows a scene of its galleries.
Pairs are drawn at random within groups. The oracle captions each picture and writes the change between two captions in
at most twelve words. The pairs pass through `contextcir generate`, as real images and a multimodal model would.

A group is either a family of scenes, each a few edits away from another, like the frames of a film; or all pictures
with the same background, like a class of ImageNet, from which the paper draws its pairs. In the second case, twelve
words describe only a part of the differences.

The output is the folder of the run of `contextcir generate`, and `pictures/` in it holds the pictures and their truth.
Same arguments, same triplets. The same command continues an interrupted build.
"""

import json
import multiprocessing
import random
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm
from transformers.hf_argparser import HfArg

from contextcir.cli import generate
from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.runtime.leaving import leave_with
from contextcir.scenes import Scene, sample_family
from contextcir.scenes.oracle import Oracle
from contextcir.scenes.truth import Truth
from datasets_scripts.build_scene_pairs import save_picture

PICTURE_OPTIONS = ("num_pictures", "group", "scenes", "image_size", "seed")


@dataclass
class Arguments:
    """Options of the builder."""

    _argument_group_name = "Triplets"

    output: str = HfArg(help="Folder of the run of contextcir generate.")
    num_pairs: int = HfArg(default=20000, help="Number of pairs to draw.")
    num_pictures: int = HfArg(default=20000, help="Fewest pictures to draw pairs from; the last family is completed.")
    group: Literal["family", "background"] = HfArg(
        default="family", help="What the two pictures of a pair have in common."
    )
    scenes: str = HfArg(default="data/scenes", help="Benchmark whose scenes are left out.")
    image_size: int = HfArg(default=96, help="Side of the pictures in pixels.")
    seed: int = HfArg(default=0, help="Seed of pictures, pairs and wording.")

    def __post_init__(self):
        for name in ("num_pairs", "num_pictures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


def benchmark_scenes(folder: str) -> set[Scene]:
    """Return the scenes of all galleries of the benchmark."""
    from contextcir.benchmarks.scenes import SPLITS, load_scenes

    return {scene for split in SPLITS for scene in load_scenes(folder, split).values()}


def draw_pictures(args: Arguments, folder: Path) -> None:
    """Draw families of scenes until there are enough pictures, then write `truth.jsonl`. Finished pictures with the
    same arguments are kept. Finished pictures with other arguments raise a `ValueError`."""
    asked, drawn = {name: getattr(args, name) for name in PICTURE_OPTIONS}, folder / "drawn.json"
    if (folder / "truth.jsonl").is_file():
        found = json.loads(drawn.read_text(encoding="utf-8")) if drawn.is_file() else {}
        if other := [name for name in PICTURE_OPTIONS if found.get(name) != asked[name]]:
            raise ValueError(
                f"The pictures in {folder} were drawn with {other[0]} {found.get(other[0])}, got {asked[other[0]]}."
                " Choose another --output."
            )
        return
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted build, perhaps with other arguments
    folder.mkdir(parents=True)
    drawn.write_text(json.dumps(asked), encoding="utf-8")
    excluded, rng = benchmark_scenes(args.scenes), random.Random(f"instructions {args.seed}")
    rows: list[dict[str, Any]] = []
    families = 0
    with tqdm(total=args.num_pictures, desc="pictures", unit="picture", mininterval=1) as progress:
        while len(rows) < args.num_pictures:
            family = dict.fromkeys(scene for query in sample_family(rng) for scene in (query.reference, query.target))
            if excluded & family.keys():
                continue
            for number, scene in enumerate(family):
                group = scene.background if args.group == "background" else f"{families:06d}"
                path = f"{group}/{families:06d}-{number}.jpg"
                rows.append(save_picture(folder, path, scene, rng.getrandbits(48), args.image_size))
            families += 1
            progress.update(len(family))
    partial = folder / "truth.partial"
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(folder / "truth.jsonl")


def serve_oracle(pictures: str, seed: int, connection: Connection) -> None:
    """Serve an oracle, send its URL, and wait until the other end of the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the run, which still needs answers to end well
    with Oracle(Truth.from_folder(pictures), seed=seed) as url:
        connection.send(url)
        connection.poll(None)


def main(argv: Sequence[str]) -> int:
    """Build pictures and triplets. Returns the exit code of `contextcir generate`."""
    (args,) = CommandParser([Arguments], "contextcir data scene-instructions", __doc__).parse(argv)
    pictures = Path(args.output, "pictures")
    draw_pictures(args, pictures)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    # In a process of its own, so that the oracle and the run use two cores.
    process = context.Process(target=serve_oracle, args=(str(pictures), args.seed, there), daemon=True)
    process.start()
    there.close()  # so that `recv` fails if the process ends early
    with here:
        server = ["--model", "oracle", "--base_url", here.recv(), "--free"]
        pairs = ["--images", str(pictures), "--num_pairs", str(args.num_pairs), "--seed", str(args.seed)]
        return generate.main(["--recipe", "instructcir", *pairs, *server, "--output", args.output])


if __name__ == "__main__":
    leave_with(lambda: run(main, "contextcir data scene-instructions"))
