"""A handful of triplets with noun phrases, in memory and on disk."""

import io
import re

import numpy as np
from datasets import Dataset
from PIL import Image

from contextcir.triplets import TRIPLET_FEATURES

TEXTS = [
    "make the red square blue and remove the star",
    "add a dog on the left of the tree",
    "remove it",  # no noun phrase
    "swap the two circles",
    "the cat should lie under the table, beside a red ball",
    "brighter",
]
PHRASE = re.compile(r"\b(?:the|a) (?:\w+ )*?(?:square|star|dog|left|tree|circles|cat|table|ball)\b")


def png(seed: int, size: tuple[int, int] = (34, 30)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def triplet(row: int, **changes) -> dict:
    text = changes.pop("modification_text", TEXTS[row % len(TEXTS)])
    phrases = [{"text": m.group(), "start": m.start(), "end": m.end()} for m in PHRASE.finditer(text)]
    return {
        "id": f"t{row}",
        "reference_image": {"bytes": png(2 * row), "path": None},
        "target_image": {"bytes": png(2 * row + 1), "path": None},
        "modification_text": text,
        "noun_phrases": phrases,
        "reference_id": f"r{row}",
        "target_id": f"g{row}",
        **changes,
    }


def triplets(rows: int = 8, **changes) -> list[dict]:
    return [triplet(row, **changes) for row in range(rows)]


def dataset(rows: list[dict]) -> Dataset:
    """As `load_triplets` gives it, but published: images decode."""
    return Dataset.from_list(rows, features=TRIPLET_FEATURES)


def write_parquet(folder, **splits: list[dict]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        dataset(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return str(folder)
