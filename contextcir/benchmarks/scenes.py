"""Scenes: drawn worlds with exact ground truth, the benchmark that ships as code (`contextcir/scenes`).

Each reference scene is asked with six texts and each text of four references, so that neither half of a query is
enough; and the gallery holds what every mistake leads to, by name. One to six pictures show the target, with another
light, place and noise. The six candidates are the reference, the targets of two texts in two scenes, and a mistake:
chance finds 20 %, and half a query 50 %, of recall_subset@1. The reference leaves the ranking, as in CIRR. Validation
is of the `iid` split alone, so that nothing is tuned on what is held out. Built by `datasets_scripts/build_scenes.py`.

What a model must not see, the truth about pictures and noun phrases, is in configurations of its own.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Features, List, Value
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choice, read_json
from contextcir.benchmarks.published import load_config, load_published
from contextcir.scenes import VERSION, Denotation, Scene, denotation_from_row, scene_from_json

SOURCE = "nothing to download: datasets_scripts/build_scenes.py draws it"
SPLITS = ("test", "validation")
PROTOCOLS = ("reference-excluded",)
RECORD = "scenes.json"  # says what was built
CELLS = List(List(Value("int32")))  # of row and column
TRUTH_FEATURES = {
    "distractors": Features({name: Value("string") for name in ("query_id", "gallery_id", "kind")}),
    "truth": Features({"id": Value("string"), "scene": Value("string"), "nuisance": Value("int64")}),
    "phrases": Features(
        {
            "query_id": Value("string"),
            "text": Value("string"),
            "start": Value("int32"),
            "end": Value("int32"),
            "is_leaf": Value("bool"),
            "role": Value("string"),
            "things": CELLS,
            "cells": CELLS,
            "background": Value("bool"),
        }
    ),
}


def load(
    path: str, split: str = "test", *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read scenes from its folder or from the Hub, in one part; its images are inside the files. Errors as in
    [`~contextcir.benchmarks.published.load_published`], and where another version wrote the data."""
    check_choice("scenes", "protocols", protocol, PROTOCOLS)
    check_choice("scenes", "splits", split, SPLITS)
    record = read_record(path)
    benchmark = load_published(path, split, name="scenes", exclude_reference=True)
    world = "scenes-{version}-seed{seed}-{image_size}px".format(version=record["version"], **record["arguments"])
    sizes = f"{split}-{len(benchmark.queries)}-in-{len(benchmark.gallery)}"
    benchmark.protocol_id = f"{world}/{sizes}/{protocol}"
    benchmark.distractors = {query.id: {} for query in benchmark.queries}
    for row in load_config(path, "distractors", split, TRUTH_FEATURES["distractors"]):
        _check_known(path, "distractors", row["query_id"], benchmark.distractors)
        benchmark.distractors[row["query_id"]][row["gallery_id"]] = row["kind"]
    benchmark.ground_truth = partial(load_ground_truth, path, benchmark, split)
    return [benchmark]


def read_record(path: str) -> dict[str, Any]:
    """
    What the builder says that it built.

    Raises:
        `ValueError`: There is no such data, or another version wrote them.
    """
    if Path(path).is_dir():
        file = Path(path, RECORD)
        record = read_json(file) if file.is_file() else {}
    else:
        try:
            record = read_json(Path(hf_hub_download(path, RECORD, repo_type="dataset")))
        except (EntryNotFoundError, HFValidationError, RepositoryNotFoundError):
            record = {}
    if record.get("version") != VERSION:
        found = f"version {record['version']} of scenes" if "version" in record else f"no {RECORD}"
        raise ValueError(
            f"{path} has {found}, and this is version {VERSION}, whose numbers do not compare with others. Build it"
            " again: python datasets_scripts/build_scenes.py --output FOLDER"
        )
    return record


@dataclass(frozen=True)
class GroundedPhrase:
    """A noun phrase of a modification text, `text[start:end]`: what becomes of what it denotes (its `role`, see
    [`~contextcir.scenes.role`]), and what that is in the reference picture."""

    text: str
    start: int
    end: int
    role: str
    denotes: Denotation


@dataclass(frozen=True)
class GroundTruth:
    """What the reference picture of a query shows, and what the noun phrases of its text denote there."""

    scene: Scene
    nuisance: int
    phrases: list[GroundedPhrase]


def load_scenes(path: str, split: str) -> dict[str, Scene]:
    """What every picture of a gallery shows, by its id. Errors as in [`load`]."""
    rows = load_config(path, "truth", split, TRUTH_FEATURES["truth"])
    return {row["id"]: scene_from_json(json.loads(row["scene"])) for row in rows}


def load_ground_truth(path: str, benchmark: Benchmark, split: str) -> dict[str, GroundTruth]:
    """
    Read the truth about the reference pictures and noun phrases of a benchmark.

    Args:
        path (`str`): A folder or a name on the Hub, as for [`load`].
        benchmark (`Benchmark`): What [`load`] gave.
        split (`str`): The same as for [`load`].

    Returns:
        `dict[str, GroundTruth]`: By query id.

    Raises:
        `ValueError`: as [`load`], or the truth contradicts itself.
    """
    references = {query.reference_id for query in benchmark.queries}
    shown = {
        row["id"]: (scene_from_json(json.loads(row["scene"])), row["nuisance"])
        for row in load_config(path, "truth", split, TRUTH_FEATURES["truth"])
        if row["id"] in references
    }
    for reference in references:
        _check_known(path, "queries", reference, shown)
    found = {query.id: GroundTruth(*shown[query.reference_id], []) for query in benchmark.queries}
    for row in load_config(path, "phrases", split, TRUTH_FEATURES["phrases"]):
        _check_known(path, "phrases", row["query_id"], found)
        truth = found[row["query_id"]]
        denotes = denotation_from_row(truth.scene, row)
        truth.phrases.append(GroundedPhrase(row["text"], row["start"], row["end"], row["role"], denotes))
    return found


def _check_known(path: str, config: str, id_: str, known) -> None:
    if id_ not in known:
        raise ValueError(f"{path}: {config} speak of {id_!r}, which is not in the other files. Build it again.")
