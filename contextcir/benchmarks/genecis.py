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

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from PIL import Image
from pydantic import BaseModel, Field, PlainValidator
from pydantic_core import PydanticCustomError

from contextcir.benchmarks import files
from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.image_files import find_images
from contextcir.data.images import ImageError, load_image
from contextcir.retrieval.base import Gallery, Query

SOURCE = (
    "annotations: github.com/facebookresearch/genecis (genecis); images: cocodataset.org, 2017 Val images, and"
    " homes.cs.washington.edu/~ranjay/visualgenome, version 1.2, both parts"
)


def _number(value: Any) -> float:
    """Check a coordinate. An integer stays one, since ids hold the numbers as they were typed."""
    if type(value) not in (int, float) or not abs(value) < 1e9:  # NaN is not less either
        raise PydanticCustomError("number", "Input should be a number below a billion")
    return value


class Shown(BaseModel, ABC):
    """An image of a query."""

    @property
    @abstractmethod
    def id(self) -> str:
        """`str`: What identifies it."""

    @property
    @abstractmethod
    def places(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: Where its file may be."""


class Photograph(Shown):
    """A photograph of COCO."""

    val_image_id: int

    @property
    def id(self) -> str:
        return str(self.val_image_id)

    @property
    def places(self) -> tuple[str, ...]:
        return (f"val2017/{self.val_image_id:012d}.jpg",)


class Crop(Shown):
    """An object in an image of Visual Genome, which has two archives, each with images of any number."""

    image_id: int
    instance_bbox: list[Annotated[float, PlainValidator(_number)]] = Field(min_length=4, max_length=4)

    @property
    def id(self) -> str:
        return f"{self.image_id}/{','.join(map(str, self.instance_bbox))}"

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(f"{folder}/{self.image_id}.jpg" for folder in ("VG_100K_2", "VG_100K"))


AnyShown = TypeVar("AnyShown", bound=Shown)


class Row(BaseModel, Generic[AnyShown]):
    """A query and its candidates."""

    reference: AnyShown
    target: AnyShown
    gallery: list[AnyShown]
    condition: str

    def images(self) -> Iterator[tuple[str, AnyShown]]:
        """Yield id and image: the reference, the distractors, the target. A second mention gets an id of its own."""
        mentions: Counter[str] = Counter()
        for image in (self.reference, *self.gallery, self.target):
            mentions[image.id] += 1
            yield (image.id if mentions[image.id] == 1 else f"{image.id}#{mentions[image.id]}"), image


KINDS: dict[str, type[Shown]] = {  # task -> its images
    "focus_attribute": Crop,
    "change_attribute": Crop,
    "focus_object": Photograph,
    "change_object": Photograph,
}
SPLITS = ("all", *KINDS)
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
    tasks = tuple(KINDS) if split == "all" else (split,)
    if lacking := [f"{task}.json" for task in tasks if not (root / f"{task}.json").exists()]:
        there = [task for task in KINDS if (root / f"{task}.json").is_file()]
        raise ValueError(
            f"genecis {split}: {path} lacks {', '.join(lacking)}. Download the annotations, or choose a task that is"
            f" there ({', '.join(there) or 'none'})."
        )
    images: dict[type[Shown], dict[str, Any]] = {kind: {} for kind in KINDS.values()}  # kind -> id -> image
    queries: dict[str, list[Query]] = {}  # by task
    for task in tasks:
        queries[task] = []
        for number, row in enumerate(_read_rows(root / f"{task}.json", task)):
            named = dict(row.images())
            images[KINDS[task]] |= named
            reference, *candidates = named
            queries[task].append(
                Query(
                    id=f"{task}-{number:04d}",
                    modification_text=row.condition,
                    reference_id=reference,
                    candidate_ids=tuple(candidates),
                )
            )
    found, galleries = {}, {}
    for kind, some in images.items():
        places = {id_: image.places for id_, image in some.items()}
        found[kind] = find_images(root, places, f"genecis {split}")
        if check_images:
            found[kind].check()
        paths = [found[kind].paths[id_] for id_ in some]
        boxes = [image.instance_bbox for image in some.values()] if kind is Crop else []
        galleries[kind] = Gallery(list(some), Crops(paths, boxes) if boxes else paths)
    return [
        Benchmark(
            name="genecis",
            part=task,
            protocol_id=f"genecis/v0/{split}/{protocol}",
            gallery=galleries[KINDS[task]],
            queries=queries[task],
            relevance={query.id: {query.candidate_ids[-1]} for query in queries[task]},
            exclude_reference=False,
            metrics={"recall": (1, 2, 3)},
            candidates_only=True,
            missing=found[KINDS[task]].missing,
            remarks=found[KINDS[task]].remarks,
        )
        for task in tasks
    ]


def _read_rows(path: Path, task: str) -> list[Row]:
    rows: list[Row] = files.read_rows(path, Row[Crop] if KINDS[task] is Crop else Row[Photograph])  # type: ignore[assignment,misc]
    if task in OFFICIAL:
        counts = {"queries": len(rows), "candidates": sum(1 + len(row.gallery) for row in rows)}
        files.check_counts(f"{path}", counts, OFFICIAL[task])
    return rows
