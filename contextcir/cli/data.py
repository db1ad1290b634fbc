"""Build data sets and the models that data are made with.

    contextcir data scenes --output data/scenes
    contextcir data published --benchmark cirr --data_root CIRR --output data/cirr

`contextcir data NAME --help` lists the options of a builder. Each is a module of `datasets_scripts`.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from contextcir.cli.options import UsageError

BUILDERS = {  # name -> module of `datasets_scripts`, what it builds
    "scenes": ("build_scenes", "scenes: training triplets and a benchmark, drawn"),
    "published": ("build_published", "CIRR, CIRCO, FashionIQ or LaSCo in the form of this library"),
    "grocery": ("build_grocery", "triplets and a benchmark from the Grocery Store photographs"),
    "hotel-cir": ("build_hotel_cir", "captioned pairs of similar images of a folder (good4cir)"),
    "cirr-r": ("build_cirr_r", "CIRR with rewritten captions (good4cir)"),
    "scene-pairs": ("build_scene_pairs", "pairs of scenes with the truth about them, to caption"),
    "scene-instructions": ("build_scene_instructions", "triplets of scenes, written by an oracle (InstructCIR)"),
    "scene-scores": ("score_scene_captions", "scores of captions of scenes against the truth"),
    "reworded-scenes": ("reword_scenes", "the scenes benchmark in generated words"),
    "reformulator": ("train_reformulator", "LoRA adapters that write changes (InstructCIR)"),
    "tiny-lm": ("build_tiny_lm", "a tiny language model of random weights, to try the reformulator"),
    "parser": ("train_parser", "the constituency parser behind noun phrases"),
    "scenes-clip": ("train_scenes_clip", "the tiny CLIP that the demo starts from"),
}


def main(argv: Sequence[str] | None = None) -> Any:
    """Run a builder, or list them."""
    name, *rest = sys.argv[1:] if argv is None else argv or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, BUILDERS))
        lines = [f"  {builder.ljust(width)}  {what}" for builder, (_, what) in BUILDERS.items()]
        print("\n".join([__doc__.strip(), "", *lines]))
        return 0
    if name not in BUILDERS:
        near = difflib.get_close_matches(name, BUILDERS, n=1)
        advice = f"Did you mean {near[0]}?" if near else f"There are {', '.join(BUILDERS)}."
        raise UsageError(f"There is nothing to build called {name!r}. {advice}")
    return importlib.import_module(f"datasets_scripts.{BUILDERS[name][0]}").main(rest)
