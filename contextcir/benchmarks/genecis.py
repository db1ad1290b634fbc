"""GeneCIS: find the one of a few images that is like the reference in a given respect (Vaze et al., CVPR 2023).

The parts are four tasks: focus on or change an object (photographs of COCO) or an attribute (crops of Visual Genome).
Each query ranks only its own candidates, a target and 14 distractors (9 in focus_attribute). Its text is the bare
condition, such as "ceiling". Papers report recall@1, 2 and 3 and the mean of the tasks.

The official evaluation lists the target first. Then the order of ties in a sort decides whether a retriever with
constant scores is always right. Here the target is last: ties count against it. One query of change_object also has
its target among the distractors. The second mention is a candidate of its own, with the id `175364#2`.

Attributes: the box of the object grows by 0.7 of its size, is cut out, and is padded with black to a square. As in the
official code, the box grows to the left and to the top, up to the image's edge. From there it has the enlarged size:
its right and lower edges move only if the edge of the image stopped it on the other side.

On disk: the four files `<task>.json` of the authors' `genecis` folder, and beside them COCO's `val2017/*.jpg` and
Visual Genome's `VG_100K/*.jpg` and `VG_100K_2/*.jpg`. Only the counts of the object tasks are known and checked.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from contextcir.benchmarks import files
from contextcir.benchmarks.base import Benchmark
from contextcir.data.images import ImageError, load_image
from contextcir.retrieval.base import Gallery, Query

SOURCE = (
    "annotations: github.com/facebookresearch/genecis (genecis); images: cocodataset.org, 2017 Val images, and"
    " homes.cs.washington.edu/~ranjay/visualgenome, version 1.2, both parts"
)
KEYS = {  # task -> keys that identify an image
    "focus_attribute": ("image_id", "instance_bbox"),
    "change_attribute": ("image_id", "instance_bbox"),
    "focus_object": ("val_image_id",),
    "change_object": ("val_image_id",),
}
SPLITS = ("all", *KEYS)
PROTOCOLS = ("ties-against-target",)
OFFICIAL = {task: {"queries": 1960, "candidates": 15 * 1960} for task in ("focus_object", "change_object")}
DILATION = 0.7


class Crops(Sequence[Image.Image]):
    """
    Crops of images, computed on access.

    Args:
        paths (`Sequence[Path]`): The image of each crop.
        boxes (`Sequence[Sequence[float]]`): Left, top, width and height of the object in each image, in pixels.
    """

    def __init__(self, paths: Sequence[Path], boxes: Sequence[Sequence[float]]):
        self.paths = paths
        self.boxes = boxes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Image.Image:  # type: ignore[override]  # a gallery takes no slices
        """Return the object in a black square, in RGB. Raises an `ImageError` if the box is outside of the image."""
        image, (left, top, width, height) = load_image(self.paths[place]), self.boxes[place]
        left, top = max(0, left - DILATION * width), max(0, top - DILATION * height)
        right = min(image.width, left + (1 + DILATION) * width)
        bottom = min(image.height, top + (1 + DILATION) * height)
        if right - left < 1 or bottom - top < 1:
            raise ImageError(
                f"{self.paths[place]}: the box {self.boxes[place]} is outside of its {image.width} x {image.height}"
                " pixels. Check that the image is the original."
            )
        cut = image.crop((left, top, right, bottom))
        square = Image.new("RGB", (max(cut.size), max(cut.size)))
        square.paste(cut, ((square.width - cut.width) // 2, (square.height - cut.height) // 2))
        return square


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read a split. Arguments, returns and errors as for [`~contextcir.benchmarks.registry.BenchmarkModule.load`].
    The parts are the tasks. A query id is the task and the row, `change_object-0017`. An image id is its number in
    COCO, or the number in Visual Genome and the box, `2343729/14,30,200,180`."""
    files.check_choices("genecis", split=(split, SPLITS), protocol=(protocol, PROTOCOLS))
    root = Path(path)
    tasks = tuple(KEYS) if split == "all" else (split,)
    if missing := [f"{task}.json" for task in tasks if not (root / f"{task}.json").is_file()]:
        there = [task for task in KEYS if (root / f"{task}.json").is_file()]
        raise ValueError(
            f"genecis {split}: {path} lacks {', '.join(missing)}. Download the annotations, or choose a task that is"
            f" there ({', '.join(there) or 'none'})."
        )
    images: dict[tuple[str, ...], dict[str, dict]] = {keys: {} for keys in KEYS.values()}  # keys -> id -> annotation
    queries: dict[str, list[Query]] = {}  # by task
    for task in tasks:
        queries[task] = []
        for number, row in enumerate(_read_rows(root / f"{task}.json", task)):
            named = dict(_named_images(row, KEYS[task]))
            images[KEYS[task]] |= named
            reference, *candidates = named
            queries[task].append(
                Query(
                    id=f"{task}-{number:04d}",
                    modification_text=row["condition"],
                    reference_id=reference,
                    candidate_ids=tuple(candidates),
                )
            )
    galleries = {keys: _gallery(root, split, some, check_images) for keys, some in images.items() if some}
    return [
        Benchmark(
            name="genecis",
            part=task,
            protocol_id=f"genecis/v0/{split}/{protocol}",
            gallery=galleries[KEYS[task]],
            queries=queries[task],
            relevance={query.id: {query.candidate_ids[-1]} for query in queries[task]},
            exclude_reference=False,
            metrics={"recall": (1, 2, 3)},
            candidates_only=True,
        )
        for task in tasks
    ]


def _read_rows(path: Path, task: str) -> list[dict[str, Any]]:
    rows = files.read_rows(path, {"reference", "target", "gallery", "condition"})
    for number, row in enumerate(rows):
        if missing := {key for image in _images(row) for key in KEYS[task] if key not in image}:
            raise ValueError(
                f"{path}, row {number}: {min(missing)!r} is missing. Expected the official annotations of {task}."
            )
    if task in OFFICIAL:
        found = {"queries": len(rows), "candidates": sum(1 + len(row["gallery"]) for row in rows)}
        files.check_counts(f"{path}", found, OFFICIAL[task])
    return rows


def _images(row: dict[str, Any]) -> list[dict]:
    return [row["reference"], *row["gallery"], row["target"]]


def _named_images(row: dict[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """Yield id and annotation of each image, the target last. A second mention gets an id of its own."""
    mentions: Counter[str] = Counter()
    for image in _images(row):
        values = [image[key] for key in keys]
        id_ = "/".join(",".join(map(str, value)) if isinstance(value, list) else str(value) for value in values)
        mentions[id_] += 1
        yield (id_ if mentions[id_] == 1 else f"{id_}#{mentions[id_]}"), image


def _gallery(root: Path, split: str, images: dict[str, dict], check_images: bool) -> Gallery:
    second = root / "VG_100K_2"  # Visual Genome has two archives, each with images of any number
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
        files.images_on_disk(list(dict.fromkeys(paths)), f"genecis {split}")
    return Gallery(list(images), Crops(paths, boxes) if boxes else paths)
