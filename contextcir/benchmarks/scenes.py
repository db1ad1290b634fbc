"""Scenes: drawn worlds with exact ground truth (`contextcir/scenes`).

Each reference scene has six texts, and each text has four references. So neither half of a query is enough. The
gallery also holds the result of every kind of mistake. One to six pictures show the target, with other light, place
and noise. The six candidates are the reference, the targets of two texts in two scenes, and a mistake: recall_subset@1
is 20 % by chance, and 50 % with half of a query. The reference is removed from the ranking, as in CIRR. Validation
has the `iid` split only, so that nothing is tuned on what is held out. Built by `contextcir data scenes`.

The truth about pictures and noun phrases, which a model must not see, is in separate configurations.
"""

import json
from collections.abc import Container
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Features, List, Value
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError
from pydantic import BaseModel

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choices, read_json
from contextcir.benchmarks.published import load_config, load_published
from contextcir.scenes import VERSION, Denotation, Scene, denotation_from_row, scene_from_json

SOURCE = "nothing to download: contextcir data scenes draws it"
SPLITS = ("test", "validation")
PROTOCOLS = ("reference-excluded",)
RECORD = "scenes.json"  # version and arguments of the build
CELLS = List(List(Value("int32")))  # pairs of row and column
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


class BuildArguments(BaseModel):
    """The arguments of a build that its protocol id names."""

    seed: int
    image_size: int


class Build(BaseModel):
    """What the record of a build has."""

    arguments: BuildArguments


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read a split. Arguments, returns and errors as for [`~contextcir.benchmarks.registry.BenchmarkModule.load`].
    Data of another version are an error too."""
    check_choices("scenes", split=(split, SPLITS), protocol=(protocol, PROTOCOLS))
    record = read_record(path)
    benchmark = load_published(path, split, name="scenes", protocol=protocol)
    world = "scenes-{version}-seed{seed}-{image_size}px".format(version=record["version"], **record["arguments"])
    sizes = f"{split}-{len(benchmark.queries)}-in-{len(benchmark.gallery)}"
    benchmark.protocol_id = f"{world}/{sizes}/{protocol}"
    distractors: dict[str, dict[str, str]] = {query.id: {} for query in benchmark.queries}
    for row in load_config(path, "distractors", split, TRUTH_FEATURES["distractors"]):
        _check_known(path, "distractors", row["query_id"], distractors)
        distractors[row["query_id"]][row["gallery_id"]] = row["kind"]
    benchmark.distractors = distractors
    benchmark.ground_truth = partial(load_ground_truth, path, benchmark, split)
    return [benchmark]


def read_record(path: str) -> dict[str, Any]:
    """Read version and arguments of the build. Raises a `ValueError` if there are no data of this version."""
    if Path(path).is_dir():
        file = Path(path, RECORD)
    else:
        try:
            file = Path(hf_hub_download(path, RECORD, repo_type="dataset"))
        except (EntryNotFoundError, HFValidationError, RepositoryNotFoundError):
            file = Path(path, RECORD)
    record = read_json(file, dict[str, Any]) if file.exists() else {}
    if record.get("version") != VERSION:
        found = f"version {record['version']} of scenes" if "version" in record else f"no {RECORD}"
        raise ValueError(
            f"{path} has {found}, and this is version {VERSION}. Versions are not comparable. Build it again:"
            " contextcir data scenes --output FOLDER"
        )
    read_json(file, Build)  # of this version, it has these keys
    return record


@dataclass(frozen=True)
class GroundedPhrase:
    """A noun phrase `text[start:end]` of a modification text: its `role` (see [`~contextcir.scenes.role`]), and what
    it denotes in the reference picture."""

    text: str
    start: int
    end: int
    role: str
    denotes: Denotation


@dataclass(frozen=True)
class GroundTruth:
    """The scene and the nuisance of a query's reference picture, and the noun phrases of its text."""

    scene: Scene
    nuisance: int
    phrases: list[GroundedPhrase]


def load_scenes(path: str, split: str) -> dict[str, Scene]:
    """Read the scene of every picture of a gallery, by id. Errors as for [`load`]."""
    rows = load_config(path, "truth", split, TRUTH_FEATURES["truth"])
    return {row["id"]: scene_from_json(json.loads(row["scene"])) for row in rows}


def load_ground_truth(path: str, benchmark: Benchmark, split: str) -> dict[str, GroundTruth]:
    """
    Read the truth about the reference pictures and noun phrases of a benchmark.

    Args:
        path (`str`): A folder or a name on the Hub, as for [`load`].
        benchmark (`Benchmark`): The result of [`load`].
        split (`str`): As for [`load`].

    Returns:
        `dict[str, GroundTruth]`: By query id.

    Raises:
        `ValueError`: As for [`load`], or the truth is inconsistent.
    """
    references = {query.reference_id for query in benchmark.queries}
    shown = {
        row["id"]: (scene_from_json(json.loads(row["scene"])), row["nuisance"])
        for row in load_config(path, "truth", split, TRUTH_FEATURES["truth"])
        if row["id"] in references
    }
    found = {}
    for query in benchmark.queries:
        _check_known(path, "queries", query.reference_id, shown)
        found[query.id] = GroundTruth(*shown[query.reference_id], [])
    for row in load_config(path, "phrases", split, TRUTH_FEATURES["phrases"]):
        _check_known(path, "phrases", row["query_id"], found)
        truth = found[row["query_id"]]
        denotes = denotation_from_row(truth.scene, row)
        truth.phrases.append(GroundedPhrase(row["text"], row["start"], row["end"], row["role"], denotes))
    return found


def _check_known(path: str, config: str, id_: str | None, known: Container) -> None:
    if id_ not in known:
        raise ValueError(f"{path}: {config} name {id_!r}, which is not in the other files. Build it again.")
