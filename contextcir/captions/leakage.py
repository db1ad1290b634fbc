"""Detect test images of benchmarks in generated data, by their ids and their content.

Ids find files that kept their name. A difference hash finds files that were renamed, scaled or compressed again: it is
the sign of the horizontal gradient at 16 x 16 places, which hardly changes with the encoding. Cropped and mirrored
copies are not found.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from contextcir.data.images import ImageError, load_image

SIDE = 16
# Of 256 bits. At half their size and JPEG quality 60, 300 photographs differed from themselves in at most 22; from the
# nearest of 1,500 others, one in a hundred differed in fewer than 46.
MAX_DISTANCE = 24


def difference_hash(image: Image.Image) -> np.ndarray:
    """Return `(4,)` uint64: 256 bits, each whether an image is darker at one place than to the right of it."""
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).view(np.uint64)


@dataclass
class HeldOut:
    """
    The test images of benchmarks.

    Args:
        ids (`dict[str, str]`): Maps the name of an image file, without its suffix, to its benchmark.
        hashes (`np.ndarray` of shape `(num_images, 4)`, uint64): Hashes of the images that are on disk.
        owners (`list[str]`): The benchmark and the name of the image of each hash.
    """

    ids: dict[str, str]
    hashes: np.ndarray
    owners: list[str]

    @classmethod
    def from_files(cls, images: Iterable[tuple[str, str | os.PathLike]]) -> "HeldOut":
        """
        Hash image files.

        Args:
            images (`Iterable[tuple[str, str or os.PathLike]]`): The benchmark and the file of each image. Of a missing
                file, only the name is used.

        Returns:
            [`HeldOut`]
        """
        ids, hashes, owners = {}, [], []
        for benchmark, path in images:
            ids[Path(path).stem] = benchmark
            try:
                hashes.append(difference_hash(load_image(path)))
                owners.append(f"{benchmark} {Path(path).stem}")
            except ImageError:
                continue
        return cls(ids, np.array(hashes, dtype=np.uint64).reshape(-1, 4), owners)

    def find(self, image_id: str, image: Image.Image) -> str | None:
        """
        Find the test image that an image shows.

        Args:
            image_id (`str`): Its id, name or path.
            image (`PIL.Image.Image`): Its pixels.

        Returns:
            `str`, *optional*: The benchmark and the name of the test image.
        """
        stem = Path(image_id).stem
        if stem in self.ids:
            return f"{self.ids[stem]} {stem}"
        if not len(self.hashes):
            return None
        distances = np.bitwise_count(self.hashes ^ difference_hash(image)).sum(axis=1)
        nearest = int(distances.argmin())
        return self.owners[nearest] if distances[nearest] <= MAX_DISTANCE else None
