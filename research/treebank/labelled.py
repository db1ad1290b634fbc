"""Captions of the field whose leaf noun phrases are labelled by hand, and the scores of an extractor on them.

The labels are in `tests/fixtures/phrases`, whose README says what is labelled. Texts that may not be copied are read
from the benchmarks' own files below `CIR_DATA_ROOT`; without it, only the captions of CIRR are there.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextcir.phrases.concepts import COMMANDS_AT_START

LABELS = Path(__file__).parents[2] / "tests" / "fixtures" / "phrases"
FILES = {  # of the texts, below CIR_DATA_ROOT; {} is the first part of an id
    "circo_val": "circo/annotations/val.json",
    "circo_test": "circo/annotations/test.json",
    "fashioniq_val": "fashioniq/captions/cap.{}.val.json",
    "fashioniq_test": "fashioniq/captions/cap.{}.test.json",
    "good4cir": "good4cir_captions/captions.json",
    "genecis": "genecis/change_object.json",
}


@dataclass(frozen=True)
class LabelledCaption:
    """A caption with the character spans of its leaf noun phrases that are concepts."""

    source: str
    text: str
    phrases: frozenset[tuple[int, int]]


def read_labelled(name: str) -> list[LabelledCaption]:
    """Read `dev` or `test`: the captions whose texts are at hand."""
    root, found = os.environ.get("CIR_DATA_ROOT"), []
    for line in (LABELS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text = row.get("text") or (root and _text(Path(root), row["source"], row["id"]))
        if text:
            found.append(LabelledCaption(row["source"], text, frozenset(map(tuple, row["phrases"]))))
    return found


def _text(root: Path, source: str, identifier: str) -> str | None:
    """Return the text of a caption, `None` if its file is not there."""
    first, *others = identifier.split("/")
    if not (path := root / FILES[source].format(first)).exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if source.startswith("circo"):
        return next(row["relative_caption"] for row in content if row["id"] == int(first))
    if source.startswith("fashioniq"):
        return content[int(others[0])]["captions"][int(others[1])]
    if source == "good4cir":
        pair = next(pair for pair in content["pairs"] if pair["pair_id"] == int(first))
        return pair["difference_captions"][int(others[0])]
    return content[int(first)]["condition"]


def score_leaves(extractor: Any, captions: Sequence[LabelledCaption]) -> dict[str, float]:
    """
    Compare the leaf phrases of an extractor (`leaf_only=True`) with the labels.

    Returns:
        `dict[str, float]`: In percent, `leaf_f1`, `leaf_precision` and `leaf_recall` of exact spans, and
        `with_phrase`, the share of the captions with a label for which a phrase is found. `commands_inside` is the
        number of found phrases with a verb of change that no label holds, and `captions` that of the captions.
    """
    counts: Counter[str] = Counter()
    for caption, phrases in zip(captions, extractor.extract([caption.text for caption in captions]), strict=True):
        spans = {(phrase["start"], phrase["end"]) for phrase in phrases}
        counts["hit"] += len(spans & caption.phrases)
        counts["gold"] += len(caption.phrases)
        counts["found"] += len(spans)
        counts["obvious"] += bool(caption.phrases)
        counts["commands"] += sum(
            _holds_command(caption.text[start:end]) and not any(s <= start and end <= e for s, e in caption.phrases)
            for start, end in spans
        )
        counts["some"] += bool(caption.phrases and spans)
    scores = {
        "leaf_f1": 2 * counts["hit"] / max(counts["gold"] + counts["found"], 1),
        "leaf_precision": counts["hit"] / max(counts["found"], 1),
        "leaf_recall": counts["hit"] / max(counts["gold"], 1),
        "with_phrase": counts["some"] / max(counts["obvious"], 1),
    }
    rounded = {name: round(100 * value, 1) for name, value in scores.items()}
    return rounded | {"commands_inside": counts["commands"], "captions": len(captions)}


def _holds_command(phrase: str) -> bool:
    return not COMMANDS_AT_START.isdisjoint(phrase.lower().split())
