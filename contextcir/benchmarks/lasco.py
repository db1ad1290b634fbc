"""LaSCo: composed queries over COCO's photographs, made from VQA 2.0 by a language model (Levy et al., AAAI 2024).

The gallery is the authors' list of 39,826 images of val2014. The authors do not say whether the reference stays in the
ranking; public evaluations keep it. So it is kept by default, and the protocol id says which.

On disk, as published: `lasco_val.json` and `lasco_val_corpus.json`, and COCO's `val2014/*.jpg` beside them. The former
is a list of

    {"qid": 28714000, "query-image": [28714, "val2014/COCO_val2014_000000028714.jpg"],
     "query-text": "The person is riding the bike", "target-image": [277005, "val2014/COCO_val2014_000000277005.jpg"]}

and the latter of `{"id": 42, "path": "val/val2014/COCO_val2014_000000000042.jpg"}`. Its additional `val/` is ignored.
A query id is the row and the `qid`, since a question of VQA may occur more than once. A text may be blank; such a
query is answered like the others.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from contextcir.benchmarks import files
from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.image_files import find_images
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
OFFICIAL = {"val": {"queries": 30_037, "images": 39_826}}  # counted by others; published


class Row(BaseModel):
    """A query. Its images are pairs of id and path."""

    qid: int
    text: str = Field(alias="query-text")
    reference: tuple[int, str] = Field(alias="query-image")
    target: tuple[int, str] = Field(alias="target-image")


class Photograph(BaseModel):
    """An image of the corpus."""

    id: int
    path: str


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read a split. Arguments, returns and errors as for [`~contextcir.benchmarks.registry.BenchmarkModule.load`]."""
    files.check_choices("lasco", split=(split, SPLITS), protocol=(protocol, PROTOCOLS))
    root = Path(path)
    rows = files.read_rows(root / f"lasco_{split}.json", Row)
    corpus = files.read_rows(root / f"lasco_{split}_corpus.json", Photograph)
    files.check_counts(f"lasco {split} in {path}", {"queries": len(rows), "images": len(corpus)}, OFFICIAL[split])
    ids = [str(image.id) for image in corpus]
    places = {id_: (image.path.removeprefix("val/"),) for id_, image in zip(ids, corpus, strict=True)}
    found = find_images(root, places, f"lasco {split}")
    if check_images:
        found.check()
    by_id = {f"{number:05d}-{row.qid}": row for number, row in enumerate(rows)}
    return [
        Benchmark(
            name="lasco",
            protocol_id=f"lasco/{split}/{protocol}",
            gallery=Gallery(ids, [found.paths[id_] for id_ in ids]),
            queries=[
                Query(id=id_, modification_text=row.text, reference_id=str(row.reference[0]))
                for id_, row in by_id.items()
            ],
            relevance={id_: {str(row.target[0])} for id_, row in by_id.items()},
            exclude_reference=protocol == "reference-removed",
            metrics={"recall": (1, 5, 10, 50, 500, 1000)},
            empty_texts=True,
            missing=found.missing,
            remarks=found.remarks,
        )
    ]


def training_triplets(path: str, *, missing: str = "error") -> Iterator[dict[str, Any]]:
    """Yield the training split, see [`~contextcir.benchmarks.registry.BenchmarkModule`]. The `id` is the row and
    the `qid`. Rows with a blank text are left out. The number of rows is not published and not checked."""
    root = Path(path)
    rows = files.read_rows(root / "lasco_train.json", Row)
    places = {str(id_): (place,) for row in rows for id_, place in (row.reference, row.target)}
    triplets = [
        (f"{number:06d}-{row.qid}", row.text, str(row.reference[0]), str(row.target[0]))
        for number, row in enumerate(rows)
        if row.text.strip()
    ]
    yield from files.whole_triplets(triplets, find_images(root, places, "lasco train"), missing)
