"""Ground truth of pictures, recognised from their pixels. The oracle uses it in place of a vision model.

A picture is recognised by a thumbnail after re-encoding (JPEG with quality 50 or more, PNG, WebP), enlarging, and
reducing by a third. Other images are rejected: the nearest thumbnail must be near, and clearly nearer than those of
other scenes. On disk, a truth is a file `truth.jsonl` with one picture or query per line, pictures first:

    {"image": "images/beach/000012-reference.jpg", "scene": {"background": "beach", "things": [...]}}
    {"query": "12", "reference": "images/beach/000012-reference.jpg", "text": "remove the star", "target": {...}}

A picture with words written across it has them as `injected_text`. `reference` is `null` for a query without one.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contextcir.data.images import load_image
from contextcir.scenes.ground_truth import scene_from_json
from contextcir.scenes.world import Scene

THUMBNAIL = 16  # side in pixels
COARSE = 4  # side in pixels of the smaller thumbnails that are compared first
# Root mean square difference of thumbnails, in grey levels. Re-encoding causes 1 to 3.5. The smallest distance of any
# two of 3,000 pictures is 6.
MAX_DISTANCE = 4.5
AMBIGUOUS = 0.75  # largest accepted ratio of the distances to the nearest picture and to one of another scene


class UnknownPictureError(ValueError):
    """An image that matches no picture of a truth, or several."""


@dataclass(frozen=True)
class Picture:
    """A picture: its name, its scene, and the words written across it, if any."""

    name: str
    scene: Scene
    injected_text: str = ""


@dataclass(frozen=True)
class TrueQuery:
    """A query and its target scene. `reference` is `None` for a query of text only."""

    id: str
    reference: Scene | None
    text: str
    target: Scene


class Truth:
    """
    Pictures with their scenes, and queries with their targets.

    Pictures can be added at any time. The next look-up then builds an index (about a second for 100,000 pictures).
    Look-ups are thread-safe.
    """

    def __init__(self) -> None:
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
            ValueError: A line is malformed (see above). The message has its number.
            [`~contextcir.data.images.ImageError`]: A picture cannot be read.
        """
        truth = cls()
        scenes: dict[str, Scene] = {}
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
                        " a query (query, reference, text, target) after the line of its reference."
                    ) from error
                scenes[name] = scene
                truth.add(Path(folder, name), scene, name=name, injected_text=injected_text)
        return truth

    def add(self, image: Any, scene: Scene, *, name: str = "", injected_text: str = "") -> None:
        """
        Add a picture.

        Args:
            image: Anything that [`~contextcir.data.images.load_image`] reads.
            scene (`Scene`): Its scene.
            name (`str`, *optional*): Its name in messages; its number by default.
            injected_text (`str`, *optional*): The words written across it.
        """
        thumbnail = _thumbnail(image)
        with self._lock:
            self.pictures.append(Picture(name or f"picture {len(self.pictures)}", scene, injected_text))
            self._thumbnails.append(thumbnail)
            self._index = None
            self._seen.clear()

    def add_query(self, text: str, target: Scene, reference: Scene | None = None, *, id: str = "") -> None:
        """Add a query: its text, its target scene, and the scene of its reference image, if it has one."""
        self._queries.setdefault(_normalised(text), []).append(TrueQuery(id, reference, text, target))

    def find(self, image: Any) -> Picture:
        """
        Return the picture that an image shows, in any encoding.

        Args:
            image: Anything that [`~contextcir.data.images.load_image`] reads.

        Raises:
            [`UnknownPictureError`]: It matches no picture, or pictures of different scenes.
            [`~contextcir.data.images.ImageError`]: It cannot be read.
        """
        digest = hashlib.sha256(image).digest() if isinstance(image, bytes) else None
        if digest in self._seen:
            return self._seen[digest]
        thumbnail = _thumbnail(image)
        with self._lock:
            if not self.pictures:
                raise UnknownPictureError("Got an image to recognise, but this truth holds 0 pictures.")
            if self._index is None:
                self._index = _Index(np.stack(self._thumbnails))
            places, distances = self._index.near(thumbnail, MAX_DISTANCE / AMBIGUOUS)
        picture = self._accept([self.pictures[place] for place in places], distances)
        if digest:
            self._seen[digest] = picture
        return picture

    def _accept(self, near: list[Picture], distances: np.ndarray) -> Picture:
        """Return the nearest of some pictures, if it is near enough and no other scene is similarly near."""
        if not near or distances[0] > MAX_DISTANCE:
            raise UnknownPictureError(
                f"The image matches none of {len(self.pictures)} pictures: none is within {MAX_DISTANCE} grey levels."
                " Send it uncropped, with at least two thirds of its size."
            )
        for other, distance in zip(near, distances, strict=True):
            if other.scene != near[0].scene and distances[0] >= AMBIGUOUS * distance:
                raise UnknownPictureError(
                    f"The image matches both {near[0].name!r} and {other.name!r}, which show different scenes"
                    f" ({distances[0]:.2f} and {distance:.2f} grey levels away). Send it in better quality."
                )
        return near[0]

    def find_query(self, text: str, reference: Scene | None) -> TrueQuery | None:
        """Return the query with this text. Of several, return the one with the most similar reference scene."""
        found = self._queries.get(_normalised(text), [])
        return max(found, key=lambda query: _similarity(query.reference, reference), default=None)


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(one: Scene | None, other: Scene | None) -> int:
    if one is None or other is None:
        return int(one is other)
    return 1 + len(set(one.things) & set(other.things)) + (one.background == other.background)


def _thumbnail(image: Any) -> np.ndarray:
    """Return the means of a grid of areas: `(THUMBNAIL, THUMBNAIL, 3)` of `uint8`."""
    return np.asarray(load_image(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


class _Index:
    """
    Exact search for all thumbnails within a small distance.

    The mean of a block of pixels, times the root of their number, is a projection onto a unit vector, and projections
    shrink distances. So near thumbnails have near means. Thumbnails are sorted by their overall mean, which leaves a
    few per cent of them. Coarse thumbnails leave a few, and only these are compared in full.
    """

    def __init__(self, thumbnails: np.ndarray):
        means = thumbnails.reshape(len(thumbnails), -1).mean(1)
        self.order = np.argsort(means, kind="stable")
        self.means = means[self.order]
        self.thumbnails = thumbnails[self.order]
        self.coarse = _coarse(self.thumbnails)

    def near(self, thumbnail: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
        """Return places and distances (root mean squares) of all thumbnails within a distance, the nearest first."""
        first, last = np.searchsorted(self.means, thumbnail.mean() + np.array([-distance, distance]))
        apart = self.coarse[first:last] - _coarse(thumbnail[None])
        places = first + np.flatnonzero(np.einsum("nd,nd->n", apart, apart) <= apart.shape[1] * distance**2)
        apart = self.thumbnails[places].astype(np.float32) - thumbnail
        distances = np.sqrt((apart**2).mean((1, 2, 3)))
        nearest = np.argsort(distances, kind="stable")
        nearest = nearest[distances[nearest] <= distance]
        return self.order[places[nearest]], distances[nearest]


def _blocks() -> np.ndarray:
    """Return the matrix from a flat thumbnail to the means of its blocks: `(16 * 16 * 3, 4 * 4 * 3)`."""
    block = np.kron(np.eye(COARSE), np.ones((THUMBNAIL // COARSE, 1))) * COARSE / THUMBNAIL
    return np.kron(np.kron(block, block), np.eye(3)).astype(np.float32)


_BLOCKS = _blocks()


def _coarse(thumbnails: np.ndarray) -> np.ndarray:
    """Return means of blocks, in chunks to save memory: `(n, 16, 16, 3)` -> `(n, 4 * 4 * 3)`."""
    flat = thumbnails.reshape(len(thumbnails), -1)
    return np.concatenate([flat[start : start + 4096] @ _BLOCKS for start in range(0, len(flat), 4096)])
