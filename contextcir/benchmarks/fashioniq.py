"""FashionIQ: composed queries over pictures of dresses, shirts and tops (Wu et al., CVPR 2021).

Three parts with a gallery each; papers report recall@10 and @50 of each part and their averages. Three protocols are
in use under one name:

- `full`: the gallery is the whole split file, the reference stays in (CLIP4Cir, SEARLE, LinCIR, CIReVL, SPRC,
  MagicLens, Pic2Word);
- `full-without-reference`: the same, without the reference (CoVR);
- `union`: the gallery is only the references and targets of this part, without the query's own reference (VAL). The
  results are 6 to 8 points higher.

Every pair of images has two captions. There are several ways to join them to one text:

- `clip4cir`: "First and second", both stripped of ".?, ", the first capitalised;
- `both-orders`: "first and second" and "second and first", both stripped: a query with two wordings (SEARLE);
- `covr`: "first and second" in lower case, each of .!"()*#:;~ replaced by a space, cut at 30 words (CoVR);
- `plain`: "first and second" as they are (MagicLens);
- `separate`: each caption is a query of its own, without the three blank ones of val (VAL).

A few captions are blank. Joined, they leave " and second", as in the code of these papers.

The targets of test are not public and there is no evaluation server: its rankings can be checked but not scored.

On disk, as usual: the authors' `captions/cap.<part>.<split>.json` and `image_splits/split.<part>.<split>.json`, and
`images/<id>.png` or `.jpg` (the former if both exist), downloaded from the published lists of addresses. Many of these
are dead by now.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from contextcir.benchmarks import files
from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.image_files import find_images
from contextcir.retrieval.base import Gallery, Query

CITATION = """\
@inproceedings{wu2021fashion,
  title={Fashion {IQ}: A New Dataset Towards Retrieving Images by Natural Language Feedback},
  author={Wu, Hui and Gao, Yupeng and Guo, Xiaoxiao and Al-Halah, Ziad and Rennie, Steven and Grauman, Kristen and
    Feris, Rogerio},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2021}
}"""
SOURCE = (
    "annotations: github.com/XiaoxiaoGuo/fashion-iq; addresses of images: github.com/hongwang600/fashion-iq-metadata"
)
LICENCE = "annotations CDLA-Permissive; images belong to the shops that showed them"
PARTS = ("dress", "shirt", "toptee")
SPLITS = ("val", "test")
PROTOCOLS = ("full", "full-without-reference", "union")
TEXTS = ("clip4cir", "both-orders", "covr", "plain", "separate")
OFFICIAL = {
    ("val", "dress"): {"annotations": 2017, "images": 3817, "images in the union": 2628},
    ("val", "shirt"): {"annotations": 2038, "images": 6346, "images in the union": 3089},
    ("val", "toptee"): {"annotations": 1961, "images": 5373, "images in the union": 2902},
    ("test", "dress"): {"annotations": 2024, "images": 3818},
    ("test", "shirt"): {"annotations": 2038, "images": 6346},
    ("test", "toptee"): {"annotations": 2056, "images": 5374},
}
TRAINING = {"dress": {"annotations": 5985}, "shirt": {"annotations": 5988}, "toptee": {"annotations": 6027}}


class Row(BaseModel):
    """A reference image, `candidate`, and two captions."""

    candidate: str
    captions: list[str] = Field(min_length=2, max_length=2)


class Scored(Row):
    """A row whose target is public."""

    target: str


AnyRow = TypeVar("AnyRow", bound=Row)


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], text: str = TEXTS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read a split. Arguments, returns and errors as for [`~contextcir.benchmarks.registry.BenchmarkModule.load`].
    The parts are dress, shirt and toptee. A query id is the part and the row, `dress-00017`; with `separate` also the
    number of the caption, `dress-00017-2`. The protocol `union` needs targets and exists only for `val`."""
    files.check_choices("fashioniq", split=(split, SPLITS), protocol=(protocol, PROTOCOLS), text=(text, TEXTS))
    if (split, protocol) == ("test", "union"):
        raise ValueError("fashioniq has the protocol union for val only: it needs the targets, and test has none.")
    return [_load_part(Path(path), part, split, protocol, text, check_images) for part in PARTS]


def training_triplets(path: str, *, text: str = TEXTS[0], missing: str = "error") -> Iterator[dict[str, Any]]:
    """Yield the training split of all parts, see [`~contextcir.benchmarks.registry.BenchmarkModule`].
    `text` is as for [`load`]; only the first wording is used."""
    root, triplets = Path(path), []
    for part in PARTS:
        rows = _annotations(root, part, "train", Scored)
        files.check_counts(f"fashioniq {part} train in {path}", {"annotations": len(rows)}, TRAINING[part])
        for id_, (row, wordings) in _texts_by_id(rows, part, text).items():
            triplets.append((id_, wordings[0], row.candidate, row.target))
    ids = sorted({id_ for *_, reference, target in triplets for id_ in (reference, target)})
    found = find_images(root, _places(ids), "fashioniq train (as .png or .jpg)", from_web=True)
    yield from files.whole_triplets(triplets, found, missing)


def _places(ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    return {id_: (f"images/{id_}.png", f"images/{id_}.jpg") for id_ in ids}


def _annotations(root: Path, part: str, split: str, kind: type[AnyRow]) -> list[AnyRow]:
    """Read the pairs of images, each with two captions."""
    return files.read_rows(root / "captions" / f"cap.{part}.{split}.json", kind)


def _load_part(root: Path, part: str, split: str, protocol: str, text: str, check_images: bool) -> Benchmark:
    what = f"fashioniq {part} {split}"
    rows: Sequence[Row] = _annotations(root, part, split, Scored if split == "val" else Row)
    ids = files.read_json(root / "image_splits" / f"split.{part}.{split}.json", list[str])
    counts = {"annotations": len(rows), "images": len(ids)}
    targets = [row for row in rows if isinstance(row, Scored)]
    if targets:
        union = sorted({id_ for row in targets for id_ in (row.candidate, row.target)})
        counts["images in the union"] = len(union)
    files.check_counts(f"{what} in {root}", counts, OFFICIAL[split, part])
    if protocol == "union":
        ids = union
    found = find_images(root, _places(ids), f"{what} (as .png or .jpg)", from_web=True, near=part)
    if check_images:
        found.check()
    texts = _texts_by_id(rows, part, text)
    return Benchmark(
        name="fashioniq",
        part=part,
        protocol_id=f"fashioniq/{split}/{text}/{protocol}",
        gallery=Gallery(ids, [found.paths[id_] for id_ in ids]),
        queries=[
            Query(id=id_, modification_text=first, paraphrases=tuple(others), reference_id=row.candidate)
            for id_, (row, (first, *others)) in texts.items()
        ],
        relevance={id_: {row.target} for id_, (row, _) in texts.items() if isinstance(row, Scored)},
        exclude_reference=protocol != "full",
        metrics={"recall": (10, 50)},
        missing=found.missing,
        remarks=found.remarks,
    )


def _texts_by_id(rows: Sequence[AnyRow], part: str, text: str) -> dict[str, tuple[AnyRow, list[str]]]:
    """Return query id -> row and wordings."""
    return {
        f"{part}-{number:05d}{suffix}": (row, wordings)
        for number, row in enumerate(rows)
        for suffix, wordings in _texts_of(row.captions, text).items()
    }


def _texts_of(captions: list[str], text: str) -> dict[str, list[str]]:
    """Join two captions, one of which may be blank: suffix of the query id -> wordings, for each query."""
    if text == "separate":
        return {f"-{number}": [caption.strip()] for number, caption in enumerate(captions, start=1) if caption.strip()}
    first, second = (caption.strip(".?, ") for caption in captions)
    joined = " and ".join(captions)
    return {
        "": {
            "clip4cir": [f"{first.capitalize()} and {second}"],
            "both-orders": [f"{first} and {second}", f"{second} and {first}"],
            "covr": [" ".join(re.sub(r'[.!"()*#:;~]', " ", joined.lower()).split()[:30])],
            "plain": [joined],
        }[text]
    }
