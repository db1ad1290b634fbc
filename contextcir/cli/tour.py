"""See in a minute what this library does: draw a gallery of pictures, search it, and serve a page.

    contextcir tour
    contextcir tour --output my-tour --port 9000
    contextcir tour --serve false

Nothing is downloaded. The pictures are scenes, drawn things with an exact description, and the model is
`checkpoints/scenes-contextcir-tiny`, which ships with the package. Each step is a command of this library, and is
printed as you would type it. The queries are evenly spaced over those of a small benchmark, not picked by hand.

The page needs the extra `serve`. Without `--output`, everything goes into a temporary folder, which stays.
"""

import importlib
import importlib.util
import json
import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser

if TYPE_CHECKING:
    from contextcir.scenes.benchmark import Question

MODEL = "checkpoints/scenes-contextcir-tiny"
SEED = 2026  # another one than that of the data which the model was trained on
QUERIES = 48  # of the benchmark, whose pictures they are
SEARCHES = 3
SIDE = 96  # pixels of a picture
NEXT = """
Where to go next
  your photos       contextcir index PHOTOS --model MODEL --output my-gallery
  your triplets     contextcir train configs/cirr_vit_b.yaml --data my-triplets --output_dir runs/mine
  any model         contextcir benchmark --retriever st:NAME --benchmark cirr --data_root data/cirr
  make triplets     contextcir generate --pairs pairs.json --output data/mine --model gpt-4o --max_usd 20
  all of them       contextcir --help
"""


@dataclass
class TourArguments:
    """Where the tour goes."""

    _argument_group_name = "Tour"

    output: str | None = HfArg(default=None, help="New folder of pictures and gallery (default: a temporary one).")
    pictures: int = HfArg(default=600, help="Pictures to draw.")
    serve: bool = HfArg(default=True, help="Serve the page at the end, until Ctrl-C.")
    port: int = HfArg(default=8080, help="Port of the page; 0: any free one.")

    def __post_init__(self):
        if self.output is not None and Path(self.output).exists():
            raise ValueError(f"{self.output} exists. Give a new folder.")


def main(argv: Sequence[str]) -> int:
    """Draw, index, search and serve. Returns the exit code."""
    (args,) = CommandParser([TourArguments], "contextcir tour", __doc__).parse(argv)
    began = time.perf_counter()
    folder = Path(args.output or tempfile.mkdtemp(prefix="contextcir-tour-"))
    pictures, gallery, examples = folder / "pictures", folder / "gallery", folder / "examples.jsonl"
    questions = draw(pictures, args.pictures)
    asked = [{"id": file_name(question.reference_id), "text": question.query.text} for question in questions]
    examples.write_text("".join(json.dumps(one) + "\n" for one in asked), encoding="utf-8")

    call("index", pictures, "--model", MODEL, "--output", gallery)
    for number, (one, question) in enumerate(zip(asked, questions, strict=True), start=1):
        page = folder / f"search_{number}.html"
        found = call("search", gallery, "--image", one["id"], "--text", one["text"], "-k", 5, "--html", page)
        print(verdict([hit["id"] for hit in found.results], question))
    print(f"\n{time.perf_counter() - began:.0f} seconds. The searches as pages: {folder}/search_*.html")
    print(NEXT)
    if not args.serve:
        return 0
    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn")):
        print("The page needs a server: pip install 'contextcir[serve]'")
        return 0
    return call("serve", gallery, "--examples", examples, "--port", args.port)


def draw(folder: Path, count: int) -> "list[Question]":
    """Draw a gallery into a new folder. Returns a few queries, whose references and targets are in it."""
    from contextcir.benchmarks.base import evenly_spaced
    from contextcir.scenes import compose
    from contextcir.scenes.rows import encode

    benchmark = compose("test", QUERIES, count, SEED)
    folder.mkdir(parents=True)
    for name, picture in benchmark.pictures():
        (folder / file_name(name)).write_bytes(encode(picture, SIDE)["bytes"])
    print(f"{count} pictures are drawn in {folder}")
    return evenly_spaced(benchmark.questions, SEARCHES)


def file_name(id_: str) -> str:
    """The file of a picture, which is its id in the gallery."""
    return f"{id_}.jpg"


def call(name: str, *argv: Any) -> Any:
    """Print a command, and run it."""
    from contextcir.cli.main import COMMANDS

    words = [str(word) for word in argv]
    print(f"\n$ {shlex.join(['contextcir', name, *words])}", flush=True)
    return importlib.import_module(COMMANDS[name][0]).main(words)


def verdict(found: Sequence[str], question: "Question") -> str:
    """Say where a right answer is: scenes have exact ones."""
    targets = {file_name(id_) for id_ in question.target_ids}
    right = [rank for rank, id_ in enumerate(found, start=1) if id_ in targets]
    return f"      right: rank {right[0]}" if right else f"      right: not among the {len(found)} best"
