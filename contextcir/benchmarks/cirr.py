"""CIRR: composed queries over the photographs of NLVR2 (Liu et al., ICCV 2021), release rc2.

The gallery is every name of the split file, those that are never a reference included; the reference leaves the
ranking. recall_subset ranks the five other members of a query's image set, so chance is 20 at 1. Queries are keyed by
`pairid`: an image set has several. One text of test1 is blank, and is answered like the others. `target_soft` has no
part in the official metric. The targets of test1 are not public: for it there are the two files that the evaluation
server takes (https://cirr.cecs.anu.edu.au).

On disk, as the authors publish it: `captions/cap.rc2.<split>.json`, `image_splits/split.rc2.<split>.json`, and the
images where the latter says (`dev/`, `test1/`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contextcir.benchmarks.base import Benchmark, refuse_repeated
from contextcir.benchmarks.files import check_choice, check_counts, images_on_disk, read_json, read_rows
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
SIDES = {"reference": "reference", "target": "target_hard"}
PROTOCOLS = ("reference-excluded",)
OFFICIAL = {"val": {"queries": 4181, "images": 2297}, "test1": {"queries": 4148, "images": 2315}}
TRAINING = {"queries": 28_225, "images": 16_939}
SUBMITTED = {"recall": 50, "recall_subset": 3}  # names for each query
MAX_BYTES = 5_000_000


def load(path: str, split: str = "val", *, protocol: str = PROTOCOLS[0], check_images: bool = True) -> list[Benchmark]:
    """
    Read a split from the official layout.

    Args:
        path (`str`): Folder with `captions`, `image_splits` and the images.
        split (`str`): `val` or `test1`, which has no public targets.
        protocol (`str`): There is one.
        check_images (`bool`): Whether every image must be there. Protocols can be tested without.

    Returns:
        `list[Benchmark]`: One.

    Raises:
        `ValueError`: for an unknown split, malformed JSON, counts that are not the official ones, missing images.
    """
    check_choice("cirr", "splits", split, SPLITS)
    check_choice("cirr", "protocols", protocol, PROTOCOLS)
    root = Path(path)
    annotations, locations = _read(root, split)
    found = {"queries": len(annotations), "images": len(locations)}
    check_counts(f"cirr {split} in {path}", found, OFFICIAL[split])
    paths = [root / location for location in locations.values()]
    benchmark = Benchmark(
        name="cirr",
        protocol_id=f"cirr/rc2/{split}/{protocol}",
        gallery=Gallery(list(locations), images_on_disk(paths, f"cirr {split}") if check_images else paths),
        queries=[
            Query(
                id=str(row["pairid"]),
                modification_text=row["caption"],
                reference_id=row["reference"],
                candidate_ids=tuple(row["img_set"]["members"]),
            )
            for row in annotations
        ],
        relevance={str(row["pairid"]): {row["target_hard"]} for row in annotations if "target_hard" in row},
        exclude_reference=True,
        metrics={"recall": (1, 2, 5, 10, 50), "recall_subset": (1, 2, 3)},
        empty_texts=True,
    )
    return [benchmark]


def training_triplets(path: str) -> Iterator[dict[str, Any]]:
    """
    Read the training split from the official layout.

    Args:
        path (`str`): Folder with `captions`, `image_splits` and the images.

    Yields:
        `dict`: `id` (the pairid), `modification_text`, `reference_id`, `target_id`, and the paths `reference_image`
        and `target_image`.

    Raises:
        `ValueError`: as [`load`].
    """
    root = Path(path)
    annotations, locations = _read(root, "train")
    found = {"queries": len(annotations), "images": len(locations)}
    check_counts(f"cirr train in {path}", found, TRAINING)
    images_on_disk([root / location for location in locations.values()], "cirr train")
    for row in annotations:
        yield {
            "id": str(row["pairid"]),
            "modification_text": row["caption"],
            **{f"{side}_id": row[key] for side, key in SIDES.items()},
            **{f"{side}_image": root / locations[row[key]] for side, key in SIDES.items()},
        }


def _read(root: Path, split: str) -> tuple[list[dict], dict[str, str]]:
    """Annotations, and name -> location of the images."""
    annotations = read_rows(root / "captions" / f"cap.rc2.{split}.json", ("pairid", "reference", "caption", "img_set"))
    path = root / "image_splits" / f"split.rc2.{split}.json"
    locations = read_json(path)
    if not isinstance(locations, dict):
        raise ValueError(
            f"{path} holds a {type(locations).__name__}, expected names and locations. Download it again."
        )
    return annotations, locations


def submission(parts: list[Benchmark], rankings: list[Ranking]) -> dict[str, dict]:
    """
    What the evaluation server takes.

    Args:
        parts (`list[Benchmark]`): From [`load`].
        rankings (`list[Ranking]`): One for each part.

    Returns:
        `dict[str, dict]`: Name of each of the two files -> its JSON.

    Raises:
        `ValueError`: as [`check_submission`].
    """
    (benchmark,), (ranking,) = parts, rankings
    benchmark.check(ranking)
    ranked = {"recall": ranking.gallery_ids, "recall_subset": ranking.candidate_ids}
    files = {}
    for metric, length in SUBMITTED.items():
        lists = {id_: list(ids[:length]) for id_, ids in zip(ranking.query_ids, ranked[metric], strict=True)}
        content = {"version": "rc2", "metric": metric, **lists}
        check_submission(benchmark, content)
        files[f"{benchmark.protocol_id.split('/')[2]}_{metric}.json"] = content
    return files


def check_submission(benchmark: Benchmark, content: dict) -> None:
    """
    Refuse what the server would refuse, or what would silently be scored as something else.

    Args:
        benchmark (`Benchmark`): From [`load`].
        content (`dict`): JSON of one file.

    Raises:
        `ValueError`: for another version or metric; missing or unknown pairids; a list that is too short or too long,
            repeats a name, holds the reference, an unknown name or, for the subset, no member; a file over 5 MB.
    """
    content = dict(content)
    version, metric = content.pop("version", None), content.pop("metric", None)
    if version != "rc2" or metric not in SUBMITTED:
        raise ValueError(
            f"A cirr submission has version 'rc2' and a metric of {', '.join(SUBMITTED)}, got {version!r} and"
            f" {metric!r}."
        )
    queries = {query.id: query for query in benchmark.queries}
    for kind, ids in (("misses", queries.keys() - content.keys()), ("invents", content.keys() - queries.keys())):
        if ids:
            raise ValueError(f"The cirr submission {kind} {len(ids):,} pairids, such as {min(ids)!r}.")
    for id_, names in content.items():
        query = queries[id_]
        where = f"The cirr submission ({metric}), pairid {id_},"
        refuse_repeated(names, f"{where} the names")
        if len(names) != SUBMITTED[metric]:
            raise ValueError(f"{where} holds {len(names)} names, expected {SUBMITTED[metric]}.")
        if query.reference_id in names:
            raise ValueError(f"{where} holds its reference {query.reference_id!r}.")
        allowed = query.candidate_ids if metric == "recall_subset" else benchmark.gallery.positions
        if foreign := [name for name in names if name not in allowed]:
            what = "the members of its image set" if metric == "recall_subset" else "the gallery"
            raise ValueError(f"{where} holds {foreign[0]!r}, which is not among {what}.")
    size = len(json.dumps({"version": version, "metric": metric, **content}))
    if size > MAX_BYTES:
        raise ValueError(f"The cirr submission ({metric}) takes {size:,} bytes, the server at most {MAX_BYTES:,}.")
