"""A handful of triplets with noun phrases and a benchmark, in memory and on disk."""

import io
import json
import re

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from contextcir.data.negatives import CONFIGS, NEGATIVE_FEATURES, NEGATIVE_IDS, NEGATIVES, mined_features
from contextcir.data.source_card import write_derived_card
from contextcir.data.triplets import TRIPLET_FEATURES

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
    PILImage.fromarray(pixels).save(buffer, "PNG")
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


def mined_negatives(number: int, **others: dict) -> Dataset:
    """Images `n0`, `n1` and so on, and others by their ids, as `load_negatives` gives them."""
    images = {f"n{row}": {"bytes": png(900 + row), "path": None} for row in range(number)}
    rows = [{"id": id_, "image": image} for id_, image in (images | others).items()]
    return Dataset.from_list(rows, features=NEGATIVE_FEATURES).cast_column("image", Image(decode=False))


def write_mined(folder, negatives: Dataset, **splits: list[dict]) -> str:
    """Triplets with a column `negative_ids`, as `contextcir mine` writes them."""
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        others = {name: Value("int64") for name in rows[0] if name not in (*TRIPLET_FEATURES, NEGATIVE_IDS)}
        written = Dataset.from_list(rows, features=mined_features(Features(TRIPLET_FEATURES | others)))
        (folder / "triplets").mkdir(exist_ok=True)
        written.to_parquet(folder / "triplets" / f"{split}-00000.parquet")
    (folder / NEGATIVES).mkdir()
    negatives.cast_column("image", Image()).to_parquet(folder / NEGATIVES / "train-00000.parquet")
    write_derived_card(folder, "mined", "Mined.", source=str(folder), configs=CONFIGS)
    return str(folder)


def write_benchmark(folder, split: str = "validation", queries: int = 5) -> str:
    """Queries whose gallery holds their reference, their target and two other images."""
    gallery, asked, relevant = {}, [], []
    for row in range(queries):
        query = triplet(row)
        gallery[query["reference_id"]] = query["reference_image"]
        gallery[query["target_id"]] = query["target_image"]
        candidates = [query["reference_id"], query["target_id"], f"g{(row + 1) % queries}", f"r{(row + 1) % queries}"]
        kept = {name: query[name] for name in ("id", "reference_image", "reference_id", "modification_text")}
        asked.append(kept | {"candidate_ids": candidates, "tags": []})
        relevant.append({"query_id": query["id"], "target_id": query["target_id"]})
    images = [{"id": id_, "image": image} for id_, image in gallery.items()]
    strings = List(Value("string"))
    features = {
        "gallery": {"id": Value("string"), "image": Image()},
        "queries": {name: TRIPLET_FEATURES[name] for name in kept} | {"candidate_ids": strings, "tags": strings},
        "relevance": {"query_id": Value("string"), "target_id": Value("string")},
    }
    for name, rows in (("gallery", images), ("queries", asked), ("relevance", relevant)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        written = Dataset.from_list(rows, features=Features(features[name]))
        written.to_parquet(folder / name / f"{split}-00000-of-00001.parquet")
    return str(folder)


def write_image_folder(folder, **metadata):
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.png").write_bytes(png(len(name)))
    rows = [
        {
            "reference_file_name": "one.png",
            "target_file_name": "two.png",
            "modification_text": "add a dog",
            **metadata,
        },
        {"reference_file_name": "two.png", "target_file_name": "one.png", "modification_text": "the dog", **metadata},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return str(folder)


class FirstWordExtractor:
    """Finds the first word of each text of more than two words, and records the texts."""

    def __init__(self, fingerprint: str = "first word"):
        self.fingerprint, self.texts = fingerprint, []
        self.description, self.num_skipped = f"the rule {fingerprint}", 0

    def extract(self, texts):
        self.texts += texts
        words = [text.split() for text in texts]
        return [[{"text": some[0], "start": 0, "end": len(some[0])}] if len(some) > 2 else [] for some in words]
