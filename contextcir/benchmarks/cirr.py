"""CIRR: composed queries over the photographs of NLVR2 (Liu et al., ICCV 2021), release rc2.

The gallery is every name of the split file, also those that are never a reference. The reference is removed from the
ranking. recall_subset ranks the five other members of a query's image set: chance is 20 % at 1. Queries are keyed by
`pairid`, since an image set has several. One text of test1 is blank; the query is answered like the others.
`target_soft` is not part of the official metric. The targets of test1 are not public: [`submission`] makes the two
files for the evaluation server (https://cirr.cecs.anu.edu.au).

On disk, as published: `captions/cap.rc2.<split>.json`, `image_splits/split.rc2.<split>.json`, and the images at the
paths in the latter (`dev/`, `test1/`). Both folders may also be in a folder `cirr` beside `dev/` (CLIP4Cir).
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from contextcir.benchmarks import files
from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.image_files import FoundImages, find_images
from contextcir.retrieval.base import Gallery, Query, Ranking

CITATION = """\
@inproceedings{liu2021cirr,
  title={Image Retrieval on Real-Life Images With Pre-Trained Vision-and-Language Models},
  author={Liu, Zheyuan and Rodriguez-Opazo, Cristian and Teney, Damien and Gould, Stephen},
  booktitle={IEEE/CVF International Conference on Computer Vision (ICCV)},
  year={2021}
}"""
SOURCE = "annotations: github.com/Cuberick-Orion/CIRR (cirr_dataset, rc2); images: lil.nlp.cornell.edu/nlvr"
LICENCE = "annotations MIT; images as in NLVR2, from the web and for research"
SPLITS = ("val", "test1")
PROTOCOLS = ("reference-excluded",)
OFFICIAL = {"val": {"queries": 4181, "images": 2297}, "test1": {"queries": 4148, "images": 2315}}
TRAINING = {"queries": 28_225, "images": 16_939}
SUBMITTED = {"recall": 50, "recall_subset": 3}  # names for each query
MAX_BYTES = 5_000_000


class ImageSet(BaseModel):
    """The images that a query's subset is made of, the reference among them."""

    members: list[str]


class Row(BaseModel):
    """A query."""

    pairid: int
    reference: str
    caption: str
    img_set: ImageSet


class Scored(Row):
    """A query whose target is public."""

    target_hard: str


AnyRow = TypeVar("AnyRow", bound=Row)


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read a split. Arguments, returns and errors as for [`~contextcir.benchmarks.registry.BenchmarkModule.load`]."""
    files.check_choices("cirr", split=(split, SPLITS), protocol=(protocol, PROTOCOLS))
    rows, found = _read(Path(path), split, Scored if split == "val" else Row, OFFICIAL[split])
    if check_images:
        found.check()
    return [
        Benchmark(
            name="cirr",
            protocol_id=f"cirr/rc2/{split}/{protocol}",
            gallery=Gallery(list(found.paths), list(found.paths.values())),
            queries=[
                Query(
                    id=str(row.pairid),
                    modification_text=row.caption,
                    reference_id=row.reference,
                    candidate_ids=tuple(row.img_set.members),
                )
                for row in rows
            ],
            relevance={str(row.pairid): {row.target_hard} for row in rows if isinstance(row, Scored)},
            exclude_reference=True,
            metrics={"recall": (1, 2, 5, 10, 50), "recall_subset": (1, 2, 3)},
            empty_texts=True,
            missing=found.missing,
            remarks=found.remarks,
        )
    ]


def training_triplets(path: str, *, missing: str = "error") -> Iterator[dict[str, Any]]:
    """Yield the training split, see [`~contextcir.benchmarks.registry.BenchmarkModule`]. The `id` is the pairid."""
    rows, found = _read(Path(path), "train", Scored, TRAINING)
    triplets = [(str(row.pairid), row.caption, row.reference, row.target_hard) for row in rows]
    yield from files.whole_triplets(triplets, found, missing)


def _read(root: Path, split: str, kind: type[AnyRow], official: dict[str, int]) -> tuple[list[AnyRow], FoundImages]:
    """Read the annotations, and find the images by name."""
    annotations, images = _folders(root)
    captions = annotations / "captions" / f"cap.rc2.{split}.json"
    rows = files.read_rows(captions, kind)
    locations = files.read_json(annotations / "image_splits" / f"split.rc2.{split}.json", dict[str, str])
    files.check_counts(f"cirr {split} in {root}", {"queries": len(rows), "images": len(locations)}, official)
    for number, row in enumerate(rows):
        for key, name in row.model_dump(include={"reference", "target_hard"}).items():
            if name not in locations:
                raise ValueError(
                    f"{captions}, row {number}, key {key!r}: got {name!r}, expected an image of"
                    f" split.rc2.{split}.json. Download the official annotations."
                )
    places = {name: (os.path.normpath(location),) for name, location in locations.items()}
    return rows, find_images(images, places, f"cirr {split}")


def _folders(root: Path) -> tuple[Path, Path]:
    """Return the folder of the annotations and that of the images, also where CLIP4Cir wants them."""
    if not (root / "captions").exists() and (root / "cirr" / "captions").exists():
        return root / "cirr", root
    folders = ("train", "dev", "test1")
    above = root.absolute().parent
    if root.name == "cirr" and not any((root / name).exists() for name in (*folders, "images")):
        return root, above if any((above / name).is_dir() for name in folders) else root
    return root, root


def submission(parts: list[Benchmark], rankings: list[Ranking]) -> dict[str, dict]:
    """Build the two files for the server, see [`~contextcir.benchmarks.registry.BenchmarkModule`]."""
    (benchmark,), (ranking,) = parts, rankings
    benchmark.check(ranking)
    ranked = {"recall": ranking.gallery_ids, "recall_subset": ranking.candidate_ids or []}
    contents = {}
    for metric, length in SUBMITTED.items():
        lists = {id_: list(ids[:length]) for id_, ids in zip(ranking.query_ids, ranked[metric], strict=True)}
        content = {"version": "rc2", "metric": metric, **lists}
        check_submission(benchmark, content)
        contents[f"{benchmark.protocol_id.split('/')[2]}_{metric}.json"] = content
    return contents


def check_submission(benchmark: Benchmark, content: dict) -> None:
    """
    Check the JSON content of one file for what the server refuses, or would score as something else.

    Raises:
        `ValueError`: The version or metric is another one, the file is over 5 MB, or as for
            [`~contextcir.benchmarks.files.check_submitted`].
    """
    lists = dict(content)
    version, metric = lists.pop("version", None), lists.pop("metric", None)
    if version != "rc2" or metric not in SUBMITTED:
        raise ValueError(
            f"A cirr submission has version 'rc2' and a metric of {', '.join(SUBMITTED)}, got {version!r} and"
            f" {metric!r}."
        )
    what = f"cirr submission ({metric})"
    files.check_submitted(what, lists, benchmark, SUBMITTED[metric], candidates=metric == "recall_subset")
    if (size := len(json.dumps(content))) > MAX_BYTES:
        raise ValueError(f"{what} has {size:,} bytes, the server accepts at most {MAX_BYTES:,}.")
