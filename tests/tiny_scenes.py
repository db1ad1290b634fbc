"""Small builds of the scenes data."""

from pathlib import Path

from contextcir.cli.options import as_flags
from datasets_scripts import build_scenes

ALL_SPLITS = {"num_train": 60, "num_validation": 24, "num_test": 120, "gallery_size": 700, "image_size": 48}
FEWEST = {"num_train": 8, "num_validation": 24, "num_test": 24, "gallery_size": 200, "image_size": 48}


def build(folder: Path, **options) -> Path:
    """Build the smallest data, with other options if need be."""
    build_scenes.main(as_flags({"output": folder} | FEWEST | options))
    return folder
