"""CIRR: composed queries over the photographs of NLVR2 (Liu et al., ICCV 2021), release rc2.

The gallery is every name of the split file, also those that are never a reference. The reference is removed from the
ranking. recall_subset ranks the five other members of a query's image set: chance is 20 % at 1. Queries are keyed by
`pairid`, since an image set has several. One text of test1 is blank; the query is answered like the others.
`target_soft` is not part of the official metric. The targets of test1 are not public: [`submission`] makes the two
files for the evaluation server (https://cirr.cecs.anu.edu.au).

On disk, as published: `captions/cap.rc2.<split>.json`, `image_splits/split.rc2.<split>.json`, and the images at the
paths in the latter (`dev/`, `test1/`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contextcir.benchmarks import files
from contextcir.benchmarks.base import Benchmark
from contextcir.retrieval.base import Query, Ranking

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


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read a split. Arguments, returns and errors as for [`~contextcir.benchmarks.registry.BenchmarkModule.load`]."""
    files.check_choices("cirr", split=(split, SPLITS), protocol=(protocol, PROTOCOLS))
    rows, images = _read(Path(path), split, OFFICIAL[split])
    return [
        Benchmark(
            name="cirr",
            protocol_id=f"cirr/rc2/{split}/{protocol}",
            gallery=files.image_gallery(list(images), list(images.values()), f"cirr {split}", check_images),
            queries=[
                Query(
                    id=str(row["pairid"]),
                    modification_text=row["caption"],
                    reference_id=row["reference"],
                    candidate_ids=tuple(row["img_set"]["members"]),
                )
                for row in rows
            ],
            relevance={str(row["pairid"]): {row["target_hard"]} for row in rows if "target_hard" in row},
            exclude_reference=True,
            metrics={"recall": (1, 2, 5, 10, 50), "recall_subset": (1, 2, 3)},
            empty_texts=True,
        )
    ]


def training_triplets(path: str) -> Iterator[dict[str, Any]]:
    """Yield the training split, see [`~contextcir.benchmarks.registry.BenchmarkModule`]. The `id` is the pairid."""
    rows, images = _read(Path(path), "train", TRAINING)
    files.images_on_disk(list(images.values()), "cirr train")
    for row in rows:
        sides = ((row[key], images[row[key]]) for key in ("reference", "target_hard"))
        yield files.triplet_row(str(row["pairid"]), row["caption"], *sides)


def _read(root: Path, split: str, official: dict[str, int]) -> tuple[list[dict], dict[str, Path]]:
    """Read the annotations, and the paths of the images by name."""
    rows = files.read_rows(root / "captions" / f"cap.rc2.{split}.json", ("pairid", "reference", "caption", "img_set"))
    file = root / "image_splits" / f"split.rc2.{split}.json"
    locations = files.read_json(file)
    if not isinstance(locations, dict):
        raise ValueError(f"{file} holds a {type(locations).__name__}, expected name -> path. Download it again.")
    files.check_counts(f"cirr {split} in {root}", {"queries": len(rows), "images": len(locations)}, official)
    return rows, {name: root / location for name, location in locations.items()}


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
