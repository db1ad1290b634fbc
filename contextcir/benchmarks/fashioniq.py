"""FashionIQ: composed queries over pictures of dresses, shirts and tops (Wu et al., CVPR 2021).

Three parts with a gallery each; papers report recall@10 and @50 of each and their averages. Three protocols are in use
under one name:

- `full`: the gallery is the whole split file, the reference may be found (CLIP4Cir, SEARLE, LinCIR, CIReVL, SPRC,
  MagicLens, Pic2Word);
- `full-without-reference`: the same, the reference leaves the ranking (CoVR);
- `union`: the gallery is only what is a reference or a target in this part, without the query's own reference (VAL):
  6 to 8 points higher.

Every pair of images has two captions. How they become one text is another choice:

- `clip4cir`: "First and second", both stripped of ".?, ", the first capitalised;
- `both-orders`: "first and second" and "second and first", both stripped: a query with two wordings (SEARLE);
- `covr`: "first and second" in lower case, any of .!"()*#:;~ made a space, cut at 30 words (CoVR);
- `plain`: "first and second" as they are (MagicLens);
- `separate`: each caption is a query by itself, without the three of val that are blank (VAL).

A few captions are blank. Joined, they leave " and second" behind, as they do for those who joined them so.

The targets of test are not public and nobody takes submissions any more; rankings of it can be checked, not scored.

On disk, as is usual: the authors' `captions/cap.<part>.<split>.json` and `image_splits/split.<part>.<split>.json`, and
`images/<id>.png` or `.jpg` (where both are there, the former), for which there are lists of addresses.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choice, check_counts, images_on_disk, read_json, read_rows
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


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], text: str = TEXTS[0], check_images: bool = True
) -> list[Benchmark]:
    """
    Read a split from the official layout.

    Args:
        path (`str`): Folder with `captions`, `image_splits` and `images`.
        split (`str`): `val`, or `test`, which has no public targets.
        protocol (`str`): `full`, `full-without-reference` or, for `val`, `union`.
        text (`str`): How the two captions become one text: `clip4cir`, `both-orders`, `covr`, `plain` or `separate`.
        check_images (`bool`): Whether every image must be there. Protocols can be tested without.

    Returns:
        `list[Benchmark]`: dress, shirt and toptee. A query is called by its part and row, `dress-00017`, and with
        `separate` by its caption too, `dress-00017-2`.

    Raises:
        `ValueError`: for an unknown split, protocol or text; `union` of `test`; files that are missing, malformed or
            laid out otherwise; counts that are not the official ones; missing images.
    """
    check_choice("fashioniq", "splits", split, SPLITS)
    check_choice("fashioniq", "protocols", protocol, PROTOCOLS)
    check_choice("fashioniq", "texts", text, TEXTS)
    if (split, protocol) == ("test", "union"):
        raise ValueError("fashioniq has the protocol union for val only: it needs the targets, and test has none.")
    root = Path(path)
    on_disk = _images(root)
    return [_load_part(root, part, split, protocol, text, on_disk, check_images) for part in PARTS]


def training_triplets(path: str, *, text: str = TEXTS[0]) -> Iterator[dict[str, Any]]:
    """
    Read the training split of all three parts from the official layout.

    Args:
        path (`str`): Folder with `captions`, `image_splits` and `images`.
        text (`str`): As for [`load`]; of several wordings the first is taken.

    Yields:
        `dict`: `id` (`dress-00017`), `modification_text`, `reference_id`, `target_id`, and the paths
        `reference_image` and `target_image`. Images of which the lists of addresses have lost some are named.

    Raises:
        `ValueError`: as [`load`].
    """
    root = Path(path)
    on_disk, triplets = _images(root), []
    for part in PARTS:
        rows = _annotations(root, part, "train", True)
        check_counts(f"fashioniq {part} train in {path}", {"annotations": len(rows)}, TRAINING[part])
        for number, row in enumerate(rows):
            for suffix, wordings in texts_of(row["captions"], text).items():
                triplets.append((f"{part}-{number:05d}{suffix}", wordings[0], row["candidate"], row["target"]))
    ids = {id_ for *_, reference, target in triplets for id_ in (reference, target)}
    paths = {id_: on_disk.get(id_, root / "images" / f"{id_}.png") for id_ in sorted(ids)}
    images_on_disk(list(paths.values()), "fashioniq train (as .png or .jpg)")
    for id_, wording, reference, target in triplets:
        yield {
            "id": id_,
            "modification_text": wording,
            "reference_id": reference,
            "target_id": target,
            "reference_image": paths[reference],
            "target_image": paths[target],
        }


def _images(root: Path) -> dict[str, Path]:
    """Id -> image file; sorted, so that of two files the .png remains."""
    folder = root / "images"
    found = {image.stem: image for image in sorted(folder.iterdir())} if folder.is_dir() else {}
    return {id_: image for id_, image in found.items() if image.suffix in (".jpg", ".png")}


def _annotations(root: Path, part: str, split: str, scored: bool) -> list[dict]:
    """Pairs of images with two captions each."""
    captions = root / "captions" / f"cap.{part}.{split}.json"
    rows = read_rows(captions, {"candidate", "captions"} | ({"target"} if scored else set()))
    for number, row in enumerate(rows):
        if len(row["captions"]) != 2:
            raise ValueError(f"{captions}, row {number}: there are {len(row['captions'])} captions, expected 2.")
    return rows


def _load_part(
    root: Path, part: str, split: str, protocol: str, text: str, on_disk: dict[str, Path], check_images: bool
) -> Benchmark:
    scored, what = split == "val", f"fashioniq {part} {split}"
    rows = _annotations(root, part, split, scored)
    ids = read_json(root / "image_splits" / f"split.{part}.{split}.json")
    found = {"annotations": len(rows), "images": len(ids)}
    if scored:
        union = sorted({row[role] for row in rows for role in ("candidate", "target")})
        found["images in the union"] = len(union)
    check_counts(f"{what} in {root}", found, OFFICIAL[split, part])
    if protocol == "union":
        ids = union
    paths = [on_disk.get(id_, root / "images" / f"{id_}.png") for id_ in ids]
    asked = {
        f"{part}-{number:05d}{suffix}": (row, wordings)
        for number, row in enumerate(rows)
        for suffix, wordings in texts_of(row["captions"], text).items()
    }
    return Benchmark(
        name="fashioniq",
        part=part,
        protocol_id=f"fashioniq/{split}/{text}/{protocol}",
        gallery=Gallery(ids, images_on_disk(paths, f"{what} (as .png or .jpg)") if check_images else paths),
        queries=[
            Query(id=id_, modification_text=first, paraphrases=tuple(others), reference_id=row["candidate"])
            for id_, (row, (first, *others)) in asked.items()
        ],
        relevance={id_: {row["target"]} for id_, (row, _) in asked.items()} if scored else {},
        exclude_reference=protocol != "full",
        metrics={"recall": (10, 50)},
    )


def texts_of(captions: list[str], text: str) -> dict[str, list[str]]:
    """
    The texts of an annotation.

    Args:
        captions (`list[str]`): Its two captions, of which one may be blank.
        text (`str`): One of `TEXTS`.

    Returns:
        `dict[str, list[str]]`: For each query that the annotation makes, the end of its id -> its wordings.
    """
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
