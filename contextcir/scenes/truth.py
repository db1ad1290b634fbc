"""What pictures show, found again from their pixels: the knowledge that stands in for a multimodal model's eyes.

A picture is recognised by a thumbnail after any honest re-encoding (JPEG down to quality 50, PNG, WebP, scaling up, or
down by a third), and nothing else is: the nearest thumbnail must be near, and nearer than those of other scenes. Kept
as a file, a truth is `truth.jsonl`, one picture or query a line, pictures first:

    {"image": "images/beach/000012-reference.jpg", "scene": {"background": "beach", "things": [...]}}
    {"query": "12", "reference": "images/beach/000012-reference.jpg", "text": "remove the star", "target": {...}}

A picture with words drawn across it has them as `injected_text`; a query without reference has `null` there.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from contextcir.data.images import load_image
from contextcir.scenes.ground_truth import scene_from_json
from contextcir.scenes.world import Scene

THUMBNAIL = 16  # pixels a side
COARSE = 4  # pixels a side of what is compared first
# Root mean square over a thumbnail, in grey levels. Re-encoding moves it by 1 to 3.5; of 3,000 pictures, no two are
# nearer to each other than 6.
MAX_DISTANCE = 4.5
AMBIGUOUS = 0.75  # the nearest picture must be nearer than this share of the distance to any other scene


class UnknownPictureError(ValueError):
    """An image that shows no picture of a truth, or might show several."""


@dataclass(frozen=True)
class Picture:
    """A picture: its name, what it shows, and the words drawn across it, if any."""

    name: str
    scene: Scene
    injected_text: str = ""


@dataclass(frozen=True)
class TrueQuery:
    """A query and the scene that it asks for. `reference` is None where the text says all."""

    id: str
    reference: Scene | None
    text: str
    target: Scene


class Truth:
    """
    Pictures and what they show, and queries and what they ask for.

    Pictures can be added at any time; the first look-up after that sorts them (100,000 in about a second). Look-ups
    may come from several threads.
    """

    def __init__(self):
        self.pictures: list[Picture] = []
        self._queries: dict[str, list[TrueQuery]] = {}
        self._thumbnails: list[np.ndarray] = []
        self._index: _Index | None = None
        self._seen: dict[bytes, Picture] = {}  # digest of an encoded image -> its picture
        self._lock = threading.Lock()

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> Truth:
        """
        Read `truth.jsonl` of a folder and the pictures it names.

        Raises:
            FileNotFoundError: There is no `truth.jsonl`.
            ValueError: A line is not as the module describes it (the message has its number).
            [`~contextcir.data.images.ImageError`]: A picture cannot be read.
        """
        truth, scenes = cls(), {}
        file = Path(folder, "truth.jsonl")
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                    if "query" in row:
                        reference = None if row["reference"] is None else scenes[row["reference"]]
                        truth.add_query(row["text"], scene_from_json(row["target"]), reference, id=str(row["query"]))
                        continue
                    name, scene = row["image"], scene_from_json(row["scene"])
                    injected_text = row.get("injected_text", "")
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(
                        f"{file}, line {number}: {type(error).__name__}: {error}. Expected a picture (image, scene) or"
                        " a query (query, reference, text, target) whose reference stands in an earlier line."
                    ) from error
                scenes[name] = scene
                truth.add(Path(folder, name), scene, name=name, injected_text=injected_text)
        return truth

    def add(self, image, scene: Scene, *, name: str = "", injected_text: str = "") -> None:
        """
        Add a picture.

        Args:
            image: Anything that [`~contextcir.data.images.load_image`] reads.
            scene (`Scene`): What it shows.
            name (`str`, *optional*): What messages call it; its number by default.
            injected_text (`str`, *optional*): The words drawn across it.
        """
        thumbnail = _thumbnail(image)
        with self._lock:
            self.pictures.append(Picture(name or f"picture {len(self.pictures)}", scene, injected_text))
            self._thumbnails.append(thumbnail)
            self._index = None
            self._seen.clear()

    def add_query(self, text: str, target: Scene, reference: Scene | None = None, *, id: str = "") -> None:
        """Add a query: a text, what it asks for, and what its reference image shows (`None` where it has none)."""
        self._queries.setdefault(_normal(text), []).append(TrueQuery(id, reference, text, target))

    def find(self, image) -> Picture:
        """
        The picture that an image shows, whatever its encoding.

        Args:
            image: Anything that [`~contextcir.data.images.load_image`] reads.

        Raises:
            [`UnknownPictureError`]: It is no picture of this truth, or it might be two.
            [`~contextcir.data.images.ImageError`]: It cannot be read.
        """
        digest = hashlib.sha256(image).digest() if isinstance(image, bytes) else None
        if digest in self._seen:
            return self._seen[digest]
        thumbnail = _thumbnail(image)
        with self._lock:
            if not self.pictures:
                raise UnknownPictureError("not a picture of this truth: it holds none.")
            if self._index is None:
                self._index = _Index(np.stack(self._thumbnails))
            places, distances = self._index.near(thumbnail, MAX_DISTANCE / AMBIGUOUS)
        picture = self._judge([self.pictures[place] for place in places], distances)
        if digest:
            self._seen[digest] = picture
        return picture

    def _judge(self, near: list[Picture], distances: np.ndarray) -> Picture:
        """The nearest of some pictures, if it is near enough and no other scene is about as near."""
        if not near or distances[0] > MAX_DISTANCE:
            raise UnknownPictureError(
                f"not a picture of this truth, which holds {len(self.pictures)}: none is within {MAX_DISTANCE} grey"
                " levels of it. Was it cropped, or made far smaller?"
            )
        for other, distance in zip(near, distances, strict=True):
            if other.scene != near[0].scene and distances[0] >= AMBIGUOUS * distance:
                raise UnknownPictureError(
                    f"this image may be {near[0].name!r} or {other.name!r}, which show different scenes"
                    f" ({distances[0]:.2f} and {distance:.2f} grey levels away). Send it at a better quality."
                )
        return near[0]

    def find_query(self, text: str, reference: Scene | None) -> TrueQuery | None:
        """The query of this text; of several, the one whose reference scene is most like the given one."""
        found = self._queries.get(_normal(text), [])
        return max(found, key=lambda query: _likeness(query.reference, reference), default=None)


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


def _likeness(one: Scene | None, other: Scene | None) -> int:
    if one is None or other is None:
        return int(one is other)
    return 1 + len(set(one.things) & set(other.things)) + (one.background == other.background)


def _thumbnail(image) -> np.ndarray:
    """Means of the cells of a `THUMBNAIL` x `THUMBNAIL` grid: `(THUMBNAIL, THUMBNAIL, 3)` of `uint8`."""
    return np.asarray(load_image(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


class _Index:
    """
    Exact search for what is within a small distance among many thumbnails.

    The mean of a block of pixels, times the root of their number, is a projection onto a unit vector, and projections
    shrink distances: thumbnails that are near have near means. So the mean of everything, by which they are sorted,
    leaves a few per cent of them, coarse thumbnails a few, and only those are compared in full.
    """

    def __init__(self, thumbnails: np.ndarray):
        means = thumbnails.reshape(len(thumbnails), -1).mean(1)
        self.order = np.argsort(means, kind="stable")
        self.means = means[self.order]
        self.thumbnails = thumbnails[self.order]
        self.coarse = _coarse(self.thumbnails)

    def near(self, thumbnail: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
        """Places and distances (root mean squares) of what is within a distance, the nearest first."""
        first, last = np.searchsorted(self.means, thumbnail.mean() + np.array([-distance, distance]))
        apart = self.coarse[first:last] - _coarse(thumbnail[None])
        places = first + np.flatnonzero(np.einsum("nd,nd->n", apart, apart) <= apart.shape[1] * distance**2)
        apart = self.thumbnails[places].astype(np.float32) - thumbnail
        distances = np.sqrt((apart**2).mean((1, 2, 3)))
        nearest = np.argsort(distances, kind="stable")
        nearest = nearest[distances[nearest] <= distance]
        return self.order[places[nearest]], distances[nearest]


def _blocks() -> np.ndarray:
    """Takes a flat thumbnail to the means of its blocks: `(THUMBNAIL * THUMBNAIL * 3, COARSE * COARSE * 3)`."""
    block = np.kron(np.eye(COARSE), np.ones((THUMBNAIL // COARSE, 1))) * COARSE / THUMBNAIL
    return np.kron(np.kron(block, block), np.eye(3)).astype(np.float32)


_BLOCKS = _blocks()


def _coarse(thumbnails: np.ndarray) -> np.ndarray:
    """`(n, THUMBNAIL, THUMBNAIL, 3)` -> `(n, COARSE * COARSE * 3)`, means of blocks, some at a time to save memory."""
    flat = thumbnails.reshape(len(thumbnails), -1)
    return np.concatenate([flat[start : start + 4096] @ _BLOCKS for start in range(0, len(flat), 4096)])
