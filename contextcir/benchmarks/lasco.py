"""LaSCo: composed queries over COCO's photographs, made of VQA 2.0 by a language model (Levy et al., AAAI 2024).

The gallery is the authors' list of 39,826 images of val2014. The data's description does not say whether the reference
stays in the ranking, and public evaluations leave it there: so it is kept unless asked otherwise, and the protocol's
name tells.

On disk, as the authors publish it: `lasco_val.json` and `lasco_val_corpus.json`, and COCO's `val2014/*.jpg` beside
them. The former is a list of

    {"qid": 28714000, "query-image": [28714, "val2014/COCO_val2014_000000028714.jpg"],
     "query-text": "The person is riding the bike", "target-image": [277005, "val2014/COCO_val2014_000000277005.jpg"]}

and the latter of `{"id": 42, "path": "val/val2014/COCO_val2014_000000000042.jpg"}`, whose additional `val/` is left
out. A query is called by its row and `qid`, since nothing says that a question of VQA occurs only once; nor that no
text is blank: such a query is answered like the others.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choice, check_counts, images_on_disk, read_rows
from contextcir.retrieval.base import Gallery, Query

CITATION = """\
@inproceedings{levy2024data,
  title={Data Roaming and Quality Assessment for Composed Image Retrieval},
  author={Levy, Matan and Ben-Ari, Rami and Darshan, Nir and Lischinski, Dani},
  booktitle={AAAI Conference on Artificial Intelligence},
  year={2024}
}"""
SOURCE = "annotations: github.com/levymsn/LaSCo (downloads); images: cocodataset.org, 2014 Val images, in val2014"
LICENCE = "annotations as their authors say; images as in COCO, each under its own terms of Flickr"
SPLITS = ("val",)
PROTOCOLS = ("reference-kept", "reference-removed")
OFFICIAL = {"val": {"queries": 30_037, "images": 39_826}}  # the former as others have counted, the latter as published


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """
    Read the validation split from the official layout.

    Args:
        path (`str`): Folder with `lasco_val.json`, `lasco_val_corpus.json` and `val2014`.
        split (`str`): There is one with a corpus, `val`.
        protocol (`str`): `reference-kept` or `reference-removed`.
        check_images (`bool`): Whether every image must be there. Protocols can be tested without.

    Returns:
        `list[Benchmark]`: One.

    Raises:
        `ValueError`: for an unknown split or protocol; files that are missing, malformed or laid out otherwise; counts
            that are not the official ones; missing images.
    """
    check_choice("lasco", "splits", split, SPLITS)
    check_choice("lasco", "protocols", protocol, PROTOCOLS)
    root = Path(path)
    rows = _queries(root / f"lasco_{split}.json")
    corpus = read_rows(root / f"lasco_{split}_corpus.json", {"id", "path"})
    found = {"queries": len(rows), "images": len(corpus)}
    check_counts(f"lasco {split} in {path}", found, OFFICIAL[split])
    paths = [root / image["path"].removeprefix("val/") for image in corpus]
    ids = [f"{number:05d}-{row['qid']}" for number, row in enumerate(rows)]
    benchmark = Benchmark(
        name="lasco",
        protocol_id=f"lasco/{split}/{protocol}",
        gallery=Gallery(
            [str(image["id"]) for image in corpus], images_on_disk(paths, f"lasco {split}") if check_images else paths
        ),
        queries=[
            Query(id=id_, modification_text=row["query-text"], reference_id=str(row["query-image"][0]))
            for id_, row in zip(ids, rows, strict=True)
        ],
        relevance={id_: {str(row["target-image"][0])} for id_, row in zip(ids, rows, strict=True)},
        exclude_reference=protocol == "reference-removed",
        metrics={"recall": (1, 5, 10, 50, 500, 1000)},
        empty_texts=True,
    )
    return [benchmark]


def training_triplets(path: str) -> Iterator[dict[str, Any]]:
    """
    Read the training split from the official layout. How many rows it has is nowhere to be checked, and not checked.

    Args:
        path (`str`): Folder with `lasco_train.json` and COCO's `train2014`.

    Yields:
        `dict`: `id` (row and `qid`), `modification_text`, `reference_id`, `target_id`, and the paths `reference_image`
        and `target_image`. Rows with a blank text, from which nothing is learned, are left out.

    Raises:
        `ValueError`: as [`load`].
    """
    root = Path(path)
    rows = _queries(root / "lasco_train.json")
    sides = {"reference": "query-image", "target": "target-image"}
    images = {row[key][0]: root / row[key][1] for row in rows for key in sides.values()}
    images_on_disk(list(images.values()), "lasco train")
    for number, row in enumerate(rows):
        if row["query-text"].strip():
            yield {
                "id": f"{number:06d}-{row['qid']}",
                "modification_text": row["query-text"],
                **{f"{side}_id": str(row[key][0]) for side, key in sides.items()},
                **{f"{side}_image": images[row[key][0]] for side, key in sides.items()},
            }


def _queries(path: Path) -> list[dict[str, Any]]:
    """Rows whose images are pairs of id and path."""
    rows = read_rows(path, {"qid", "query-image", "query-text", "target-image"})
    for number, row in enumerate(rows):
        for key in ("query-image", "target-image"):
            if not isinstance(row[key], list) or len(row[key]) != 2:
                raise ValueError(f"{path}, row {number}: {key!r} is {row[key]!r}, expected [id, path].")
    return rows
