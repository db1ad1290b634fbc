"""CIRCO: composed queries over COCO's unlabelled photographs, with several targets each (Baldrati et al., ICCV 2023).

mAP@k counts all targets of a query. recall@k counts only the one that its text was written for (`target_img_id`,
always the first of `gt_img_ids`). The semantic aspects of a query (cardinality, negation, ...) are its tags; the
authors report mAP@10 for each. The gallery is all of unlabeled2017. Two choices differ between papers, and change the
numbers:

- the reference stays in the ranking (SEARLE, CIReVL, MagicLens, ConText-CIR) or is removed (CoVR). It is no target.
- the text is the relative caption alone (SEARLE, LinCIR, CoVR, ImageScope), or also has the concept that both images
  share (MagicLens, BGE-VL, ConText-CIR). This changes mAP by up to a factor of two. The wording here is that of
  MagicLens, "find {shared_concept} but {relative_caption}".

The targets of test are not public: [`submission`] makes the file for the evaluation server
(https://circo.micc.unifi.it), in which ids are numbers.

On disk, as published: `annotations/<split>.json`, and in `COCO2017_unlabeled` COCO's
`annotations/image_info_unlabeled2017.json` and `unlabeled2017/*.jpg`. Without the list, the gallery is all images of
the folder. In both cases it is sorted by id, so that ties are broken in the same way.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from contextcir.benchmarks import files
from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.image_files import find_images, unpacking
from contextcir.benchmarks.image_index import image_index
from contextcir.retrieval.base import Gallery, Query, Ranking

CITATION = """\
@inproceedings{baldrati2023zero,
  title={Zero-Shot Composed Image Retrieval with Textual Inversion},
  author={Baldrati, Alberto and Agnolucci, Lorenzo and Bertini, Marco and Del Bimbo, Alberto},
  booktitle={IEEE/CVF International Conference on Computer Vision (ICCV)},
  year={2023}
}"""
SOURCE = "annotations: github.com/miccunifi/CIRCO; images: cocodataset.org, 2017 Unlabeled, in COCO2017_unlabeled"
LICENCE = "annotations CC BY-NC 4.0; images as in COCO, each under its own terms of Flickr"
SPLITS = ("val", "test")
PROTOCOLS = ("reference-kept", "reference-removed")
TEMPLATES = {"caption": "{relative_caption}", "concept-caption": "find {shared_concept} but {relative_caption}"}
TEXTS = tuple(TEMPLATES)
OFFICIAL = {"val": {"queries": 220, "images": 123_403}, "test": {"queries": 800, "images": 123_403}}
KS = (5, 10, 25, 50)
SUBMITTED = 50  # ids of each query
FOLDER, LIST = "unlabeled2017", "image_info_unlabeled2017.json"


class Row(BaseModel):
    """A query."""

    id: int
    reference_img_id: int
    relative_caption: str
    shared_concept: str


class Scored(Row):
    """A query whose targets are public."""

    target_img_id: int
    gt_img_ids: list[int]
    semantic_aspects: list[str]


class Photograph(BaseModel):
    """An image in COCO's list."""

    id: int
    file_name: str


class Photographs(BaseModel):
    """COCO's list of images."""

    images: list[Photograph]


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], text: str = TEXTS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read a split. Arguments, returns and errors as for [`~contextcir.benchmarks.registry.BenchmarkModule.load`].
    With `check_images=False` the images may be missing, if their list exists."""
    files.check_choices("circo", split=(split, SPLITS), protocol=(protocol, PROTOCOLS), text=(text, TEXTS))
    root, scored = Path(path), split == "val"
    rows: Sequence[Row] = files.read_rows(root / "annotations" / f"{split}.json", Scored if scored else Row)
    places, origin = _places(root)
    counts = {"queries": len(rows), "images": len(places)}
    files.check_counts(f"circo {split} in {path}, with {origin},", counts, OFFICIAL[split])
    if {row.id for row in rows} != set(range(len(rows))):
        raise ValueError(f"circo {split} in {path}: the ids are not 0 to {len(rows) - 1}. Download the annotations.")
    found = find_images(root, places, f"circo {split}")
    if check_images:
        found.check()
    targets = [row for row in rows if isinstance(row, Scored)]
    aspects = {row.id: tuple(row.semantic_aspects) for row in targets}
    return [
        Benchmark(
            name="circo",
            protocol_id=f"circo/{split}/{text}/{protocol}",
            gallery=Gallery(list(found.paths), list(found.paths.values())),
            queries=[
                Query(
                    id=str(row.id),
                    modification_text=TEMPLATES[text].format_map(row.model_dump()),
                    reference_id=str(row.reference_img_id),
                    tags=aspects.get(row.id, ()),
                )
                for row in rows
            ],
            relevance={str(row.id): set(map(str, row.gt_img_ids)) for row in targets},
            exclude_reference=protocol == "reference-removed",
            metrics={"map": KS, "recall": KS},
            main_targets={str(row.id): str(row.target_img_id) for row in targets} if scored else None,
            missing=found.missing,
            remarks=found.remarks,
        )
    ]


def _places(root: Path) -> tuple[dict[str, tuple[str, ...]], str]:
    """Return image id -> official place, sorted by the number in COCO; and where the ids are from."""
    lists = [
        root / folder / LIST for folder in ("COCO2017_unlabeled/annotations", "annotations", "COCO2017_unlabeled")
    ]
    if info := next((file for file in lists if file.exists()), None):
        images = [(image.id, image.file_name) for image in files.read_json(info, Photographs).images]
        origin = f"the list {info}"
    else:
        index = image_index(root)
        images = [
            (int(Path(name).stem), f"{int(Path(name).stem):012d}.jpg")
            for folder, name in index.images()
            if Path(folder).name == FOLDER and re.fullmatch(r"[0-9]+\.jpg", name)
        ]
        origin = f"the images of {FOLDER}, since there is no {LIST}"
        if not images:
            names = {name for archive in index.archives.values() for name in archive.images or ()}
            neither = f"there is neither {lists[0]} nor {root / 'COCO2017_unlabeled' / FOLDER}"
            advice = ["Get one of the two from COCO.", *unpacking(root, index, names)]
            raise ValueError(f"The gallery is unknown: {neither}. {' '.join(advice)}")
    return {str(id_): (f"COCO2017_unlabeled/{FOLDER}/{name}",) for id_, name in sorted(images)}, origin


def submission(parts: list[Benchmark], rankings: list[Ranking]) -> dict[str, dict]:
    """Build the file for the server, see [`~contextcir.benchmarks.registry.BenchmarkModule`]."""
    (benchmark,), (ranking,) = parts, rankings
    places = benchmark.check(ranking)
    content = {
        query.id: [int(id_) for id_ in ranking.gallery_ids[places[query.id]][:SUBMITTED]]
        for query in benchmark.queries
    }
    check_submission(benchmark, content)
    return {f"circo_{benchmark.protocol_id.split('/')[1]}.json": content}


def check_submission(benchmark: Benchmark, content: dict) -> None:
    """
    Check the JSON content of a file for what the server refuses, or would score as something else.

    Raises:
        `ValueError`: An id is not an integer, or as for [`~contextcir.benchmarks.files.check_submitted`].
    """
    for key, ids in content.items():
        if other := [id_ for id_ in ids if type(id_) is not int]:
            raise ValueError(f"circo submission: query {key!r} has the id {other[0]!r}, expected an integer.")
    files.check_submitted("circo submission", content, benchmark, SUBMITTED)
