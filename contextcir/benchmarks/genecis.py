"""GeneCIS: the one of a few images that is like the reference in what a word names (Vaze et al., CVPR 2023).

Four tasks, the parts: focus on or change an object (photographs of COCO) or an attribute (things cut out of Visual
Genome's). Each query ranks its own candidates, a target and 14 distractors (9 in focus_attribute), and nothing else;
its text is the bare condition, such as "ceiling". Papers report recall@1, 2 and 3 and the mean of the tasks.

The official evaluation puts the target first, and how a sort breaks ties then decides whether a retriever that cannot
tell its candidates apart is always right. Here the target stands last: ties count against it. One query of
change_object lists its target among the distractors as well: such a second mention is a candidate of its own, with the
id `175364#2`.

Attributes: the thing's box grows by 0.7 of its size and is cut out, then padded with black to a square. As the
official code has it, the box grows to the left and to the top, as far as the image goes, and keeps the enlarged size
from there: its right and lower edges move only where the image's edge was in the way on the other side.

On disk: the four files `<task>.json` of the authors' `genecis` folder, and beside them COCO's `val2017/*.jpg` and
Visual Genome's `VG_100K/*.jpg` and `VG_100K_2/*.jpg`. The counts of the object tasks are checked, those of the others
are not.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choice, check_counts, images_on_disk, read_json
from contextcir.data.images import ImageError, load_image
from contextcir.retrieval.base import Gallery, Query

CITATION = """\
@inproceedings{vaze2023genecis,
  title={{GeneCIS}: A Benchmark for General Conditional Image Similarity},
  author={Vaze, Sagar and Carion, Nicolas and Misra, Ishan},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2023}
}"""
SOURCE = (
    "annotations: github.com/facebookresearch/genecis (genecis); images: cocodataset.org, 2017 Val images, and"
    " homes.cs.washington.edu/~ranjay/visualgenome, version 1.2, both parts"
)
KEYS = {  # task -> what names an image in its file
    "focus_attribute": ("image_id", "instance_bbox"),
    "change_attribute": ("image_id", "instance_bbox"),
    "focus_object": ("val_image_id",),
    "change_object": ("val_image_id",),
}
SPLITS = ("all", *KEYS)
PROTOCOLS = ("ties-against-target",)
OFFICIAL = {task: {"queries": 1960, "candidates": 15 * 1960} for task in ("focus_object", "change_object")}
DILATION = 0.7


class Crops(Sequence):
    """
    Parts of images, cut out when asked for.

    Args:
        paths (`Sequence`): An image for each.
        boxes (`Sequence[Sequence[float]]`): Left, top, width and height of the thing in it, in pixels.
    """

    def __init__(self, paths: Sequence, boxes: Sequence[Sequence[float]]):
        self.paths = paths
        self.boxes = boxes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Image.Image:
        """The thing in a black square, in RGB."""
        image, (left, top, width, height) = load_image(self.paths[place]), self.boxes[place]
        left, top = max(0, left - DILATION * width), max(0, top - DILATION * height)
        right = min(image.width, left + (1 + DILATION) * width)
        bottom = min(image.height, top + (1 + DILATION) * height)
        if right - left < 1 or bottom - top < 1:
            raise ImageError(
                f"{self.paths[place]}: the box {self.boxes[place]} is not inside of its {image.width} x {image.height}"
                " pixels. Check that the image is the original."
            )
        cut = image.crop((left, top, right, bottom))
        square = Image.new("RGB", (max(cut.size), max(cut.size)))
        square.paste(cut, ((square.width - cut.width) // 2, (square.height - cut.height) // 2))
        return square


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """
    Read one task or all.

    Args:
        path (`str`): Folder with the tasks' files and the images.
        split (`str`): `all`, `focus_attribute`, `change_attribute`, `focus_object` or `change_object`.
        protocol (`str`): There is one.
        check_images (`bool`): Whether every image must be there. Protocols can be tested without.

    Returns:
        `list[Benchmark]`: One for each task, all under the id of the split. A query is called by its task and row,
        `change_object-0017`. Images of COCO are called by their number, cut-out things by the image's number and
        their box, `2343729/14,30,200,180`.

    Raises:
        `ValueError`: for an unknown split or protocol; files that are missing, malformed or laid out otherwise; counts
            that are not the official ones; missing images.
    """
    check_choice("genecis", "splits", split, SPLITS)
    check_choice("genecis", "protocols", protocol, PROTOCOLS)
    root = Path(path)
    tasks = tuple(KEYS) if split == "all" else (split,)
    if missing := [f"{task}.json" for task in tasks if not (root / f"{task}.json").is_file()]:
        there = [task for task in KEYS if (root / f"{task}.json").is_file()]
        raise ValueError(
            f"genecis {split}: {path} lacks {', '.join(missing)}. Download the annotations, or choose a task that is"
            f" there ({', '.join(there) or 'none'})."
        )
    rows = {task: _read_rows(root / f"{task}.json", task) for task in tasks}
    images: dict[tuple[str, ...], dict[str, dict]] = {}  # what names an image -> id -> as the files have it
    asked: dict[str, list[tuple[str, list[str]]]] = {}  # task -> text; ids of reference, distractors, target
    for task in tasks:
        for row in rows[task]:
            named = dict(_named_images(row, KEYS[task]))
            images.setdefault(KEYS[task], {}).update(named)
            asked.setdefault(task, []).append((row["condition"], list(named)))
    galleries = {keys: _gallery(root, split, some, check_images) for keys, some in images.items()}
    return [
        Benchmark(
            name="genecis",
            part=task,
            protocol_id=f"genecis/v0/{split}/{protocol}",
            gallery=galleries[KEYS[task]],
            queries=[
                Query(
                    id=f"{task}-{number:04d}",
                    modification_text=text,
                    reference_id=reference,
                    candidate_ids=tuple(candidates),
                )
                for number, (text, (reference, *candidates)) in enumerate(asked[task])
            ],
            relevance={f"{task}-{number:04d}": {ids[-1]} for number, (_, ids) in enumerate(asked[task])},
            exclude_reference=False,
            metrics={"recall": (1, 2, 3)},
            candidates_only=True,
        )
        for task in tasks
    ]


def _read_rows(path: Path, task: str) -> list[dict[str, Any]]:
    rows = read_json(path)
    if not rows:
        raise ValueError(f"{path} holds no queries. Download it again.")
    for number, row in enumerate(rows):
        missing = {"reference", "target", "gallery", "condition"} - row.keys()
        if not missing:
            missing = {key for image in _images(row) for key in KEYS[task] if key not in image}
        if missing:
            raise ValueError(
                f"{path}, row {number}: {min(missing)!r} is missing. Expected the official annotations of {task}."
            )
    found = {"queries": len(rows), "candidates": sum(1 + len(row["gallery"]) for row in rows)}
    if task in OFFICIAL:
        check_counts(f"{path}", found, OFFICIAL[task])
    return rows


def _images(row: dict[str, Any]) -> list[dict]:
    return [row["reference"], *row["gallery"], row["target"]]


def _named_images(row: dict[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """Id and image, the target last. A second mention of one in the row is another image: it is a candidate too."""
    mentions: Counter[str] = Counter()
    for image in _images(row):
        values = [image[key] for key in keys]
        id_ = "/".join(",".join(map(str, value)) if isinstance(value, list) else str(value) for value in values)
        mentions[id_] += 1
        yield (id_ if mentions[id_] == 1 else f"{id_}#{mentions[id_]}"), image


def _gallery(root: Path, split: str, images: dict[str, dict], check_images: bool) -> Gallery:
    second = root / "VG_100K_2"  # Visual Genome comes in two archives, in no order
    in_second = {path.name for path in second.iterdir()} if second.is_dir() else set()
    paths, boxes = [], []
    for image in images.values():
        if "val_image_id" in image:
            paths.append(root / "val2017" / f"{image['val_image_id']:012d}.jpg")
        else:
            name = f"{image['image_id']}.jpg"
            paths.append((second if name in in_second else root / "VG_100K") / name)
            boxes.append(image["instance_bbox"])
    if check_images:
        images_on_disk(list(dict.fromkeys(paths)), f"genecis {split}")
    return Gallery(list(images), Crops(paths, boxes) if boxes else paths)
