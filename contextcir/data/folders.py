"""The files of a folder and its sub-folders, as people have them: one walk for all that looks for images or data."""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from PIL import Image

from contextcir.data.images import FORMATS

logger = getLogger(__name__)

# Photographs, drawings and camera files that cannot be read. Whoever has them wants to know that they were left out.
UNREADABLE = {".jxl", ".svg", ".psd", ".eps", ".pdf", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw"}
BY_EXTRA = {".heic", ".heif", ".hif", ".avif"}  # as the installed libraries can
THUMBNAILS = {"@eaDir"}  # of network storage, named like the images themselves
NOT_THEIRS = THUMBNAILS | {"#recycle", "@Recycle", "$RECYCLE.BIN", "__MACOSX", "lost+found"}  # bins and remains
SPECIAL, NO_UNICODE = "pipe, socket or device", "name that is no UTF-8"


@dataclass(frozen=True)
class FolderImages:
    """
    The images of a folder.

    Attributes:
        names (`list[str]`): Sorted paths relative to the folder, with `/`.
        left_out (`dict[str, int]`): Kind of file that cannot be read, such as the suffix `.heic` -> number of them.
    """

    names: list[str]
    left_out: dict[str, int]


def walk(folder: str | os.PathLike) -> Iterator[tuple[str, os.DirEntry]]:
    """
    Yield all that is in a folder and its sub-folders, but no folders.

    Symbolic links are followed, each real folder once, under its own path rather than that of a link. Hidden files and
    folders, and what network storage and archives leave behind (`@eaDir`, waste bins, `__MACOSX`), are left out.

    Yields:
        `tuple[str, os.DirEntry]`: The path relative to the folder, with `/`, and what is there.

    Raises:
        `ValueError`: There is no such folder, or one of them cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"There is no folder {root}. Check the path.")
    seen: set[tuple[int, int]] = set()
    folders = [""]
    links: list[str] = []
    while folders or links:
        here = folders.pop() if folders else links.pop()  # real folders first
        place = root / here
        facts = place.stat()
        if (key := (facts.st_dev, facts.st_ino)) in seen:
            continue
        seen.add(key)
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            raise ValueError(
                f"The folder {place} cannot be read ({error.strerror}). Change its permissions."
            ) from error
        for entry in entries:
            if entry.name.startswith(".") or entry.name in NOT_THEIRS:
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(f"{here}{entry.name}/")
            else:
                yield f"{here}{entry.name}", entry


def files_in(folder: str | os.PathLike, suffixes: Iterable[str] = ("",)) -> list[str]:
    """List the regular files of a folder and its sub-folders with one of these endings, sorted. See [`walk`]."""
    endings = tuple(suffixes)
    return sorted(name for name, entry in walk(folder) if name.lower().endswith(endings) and entry.is_file())


def list_images(folder: str | os.PathLike) -> FolderImages:
    """
    List the image files of a folder and its sub-folders by suffix, see [`walk`].

    A warning names files whose names differ only in the Unicode form, which look the same everywhere.

    Raises:
        `ValueError`: There is no such folder, or one of them cannot be read.
    """
    readable, names = readable_suffixes(), []
    left_out: Counter[str] = Counter()
    for name, entry in walk(folder):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in readable:
            if _is_special(entry):
                left_out[SPECIAL] += 1
            elif not _is_unicode(name):
                left_out[NO_UNICODE] += 1
            else:
                names.append(name)
        elif suffix in UNREADABLE | BY_EXTRA:
            left_out[suffix] += 1
    names.sort()
    for same in FileNames(names).ambiguous():
        logger.warning(f"{folder}: {_shown(same)} are one name in two Unicode forms. Rename one of them.")
    return FolderImages(names, dict(sorted(left_out.items())))


def images_in(folder: str | os.PathLike) -> list[str]:
    """
    List the image files of a folder, see [`list_images`]. A warning counts those that cannot be read.

    Raises:
        `ValueError`: There is none.
    """
    found = list_images(folder)
    if not found.names:
        suffixes = ", ".join(sorted(readable_suffixes()))
        unreadable = left_out_sentence(found.left_out)
        raise ValueError(f"{folder} holds no images ({suffixes}). Check the path. {unreadable}".rstrip())
    if found.left_out:
        logger.warning(f"{folder}: {left_out_sentence(found.left_out)}")
    return found.names


def left_out_sentence(left_out: Mapping[str, int]) -> str:
    """Say how many files of which kinds were left out, and what would read them. Empty if there are none."""
    if not left_out:
        return ""
    counts = ", ".join(f"{count} {kind}" for kind, count in left_out.items())
    advice = " To read HEIC: pip install contextcir[heif]." if left_out.keys() & {".heic", ".heif", ".hif"} else ""
    return f"Left out, since they cannot be read: {counts}.{advice}"


def readable_suffixes() -> set[str]:
    """The suffixes of the formats that [`~contextcir.data.images.load_image`] reads, in lower case, with a dot."""
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}


class FileNames:
    """
    Names of files, to be found by another spelling of the same characters: "é" is one character (NFC) or two (NFD).

    Args:
        names (`Iterable[str]`): Names as they are on disk.
    """

    def __init__(self, names: Iterable[str]):
        self._exact = set(names)
        self._by_form: dict[str, list[str]] = {}
        for name in sorted(self._exact):
            self._by_form.setdefault(unicodedata.normalize("NFC", name), []).append(name)

    def find(self, name: str) -> str | None:
        """
        Return the name on disk: this one, or the same in another Unicode form. `None` if there is none.

        Raises:
            `ValueError`: Several names differ from this one only in their form. All are named.
        """
        if name in self._exact:
            return name
        found = self._by_form.get(unicodedata.normalize("NFC", name), [])
        if len(found) > 1:
            raise ValueError(f"{_shown([name])} may be {_shown(found)}, which look the same. Rename one of them.")
        return found[0] if found else None

    def ambiguous(self) -> list[list[str]]:
        """Return the names that differ only in their form, together."""
        return [same for same in self._by_form.values() if len(same) > 1]


def _shown(names: Iterable[str]) -> str:
    return " and ".join(map(ascii, names))  # in which the forms differ


def _is_unicode(name: str) -> bool:
    """Return whether a name can be written into a gallery: Linux takes any bytes as a name."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _is_special(entry: os.DirEntry) -> bool:
    """Return whether something is a pipe, a socket or a device: reading it may never end. A link to nothing is not."""
    if entry.is_file():
        return False
    try:
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:  # a broken link, which whoever reads it names
        return False
