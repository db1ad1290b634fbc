"""The image files of a folder and its sub-folders."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from contextcir.data.images import FORMATS

# Photographs, drawings and camera files that cannot be read. Whoever has them wants to know that they were left out.
UNREADABLE = {".heic", ".heif", ".jxl", ".svg", ".psd", ".eps", ".pdf", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw"}
THUMBNAILS = {"@eaDir"}  # of network storage, named like the images themselves


@dataclass(frozen=True)
class FolderImages:
    """
    The images of a folder.

    Attributes:
        names (`list[str]`): Sorted paths relative to the folder, with `/`.
        left_out (`dict[str, int]`): Suffix of an image format that cannot be read -> number of such files.
    """

    names: list[str]
    left_out: dict[str, int]


def list_images(folder: str | os.PathLike) -> FolderImages:
    """
    List the image files of a folder and its sub-folders by suffix.

    Symbolic links are followed, each real folder once. Hidden files and folders, and folders of thumbnails (`@eaDir`),
    are left out.

    Raises:
        `ValueError`: There is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"There is no folder {root}. Check the path.")
    readable, names = readable_suffixes(), []
    left_out: Counter[str] = Counter()
    seen = {root.resolve()}
    for here, folders, files in os.walk(root, followlinks=True):
        inside = []
        for name in sorted(folders):
            real = Path(here, name).resolve()
            if not name.startswith(".") and name not in THUMBNAILS and real not in seen:
                seen.add(real)
                inside.append(name)
        folders[:] = inside
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in readable:
                names.append(Path(here, name).relative_to(root).as_posix())
            elif suffix in UNREADABLE:
                left_out[suffix] += 1
    return FolderImages(sorted(names), dict(sorted(left_out.items())))


def images_in(folder: str | os.PathLike) -> list[str]:
    """
    List the image files of a folder, see [`list_images`].

    Raises:
        `ValueError`: There is none.
    """
    found = list_images(folder)
    if not found.names:
        unreadable = "".join(f" {count} {suffix} files cannot be read." for suffix, count in found.left_out.items())
        suffixes = ", ".join(sorted(readable_suffixes()))
        raise ValueError(f"{folder} holds no images ({suffixes}). Check the path.{unreadable}")
    return found.names


def readable_suffixes() -> set[str]:
    """The suffixes of the formats that [`~contextcir.data.images.load_image`] reads, in lower case, with a dot."""
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
