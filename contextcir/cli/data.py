"""Build data sets and the models that data are made with.

    contextcir data scenes --output data/scenes
    contextcir data published --benchmark cirr --data_root CIRR --output data/cirr

`contextcir data NAME --help` lists the options of a builder. Each builder is a module of `datasets_scripts`.
"""

import difflib
import importlib
from collections.abc import Sequence
from typing import Any

from contextcir.cli.options import UsageError

BUILDERS = {  # name -> module of `datasets_scripts`, what it builds
    "scenes": ("build_scenes", "drawn scenes: training triplets and a benchmark"),
    "published": ("build_published", "CIRR, CIRCO, FashionIQ or LaSCo in the format of this library"),
    "grocery": ("build_grocery", "triplets and a benchmark from the Grocery Store photographs"),
    "hotel-cir": ("build_hotel_cir", "captioned pairs of similar images from a folder (as Hotel-CIR)"),
    "cirr-r": ("build_cirr_r", "CIRR with rewritten captions (as CIRR_R)"),
    "scene-pairs": ("build_scene_pairs", "pairs of scenes with known differences, to caption"),
    "scene-instructions": ("build_scene_instructions", "triplets of scenes, written by an oracle (as InstructCIR)"),
    "reformulator": ("train_reformulator", "LoRA adapters that write the change between two captions (InstructCIR)"),
}


def main(argv: Sequence[str]) -> Any:
    """Run a builder, or list them. Returns what the builder returns."""
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, BUILDERS))
        lines = [f"  {builder.ljust(width)}  {summary}" for builder, (_, summary) in BUILDERS.items()]
        print("\n".join([__doc__.strip(), "", *lines]))
        return 0
    if name not in BUILDERS:
        near = difflib.get_close_matches(name, BUILDERS, n=1)
        advice = f"Did you mean {near[0]}?" if near else f"There are {', '.join(BUILDERS)}."
        raise UsageError(f"There is no builder {name!r}. {advice}")
    return importlib.import_module(f"datasets_scripts.{BUILDERS[name][0]}").main(rest)
