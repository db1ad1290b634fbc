"""Index the names of the image files below a folder, once: the index is kept in the cache and brought up to date.

Only folders that changed since (by their time) are listed again. Names alone are kept; whether a file has content is
looked up when it is taken.
"""

import hashlib
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from contextcir.data.folders import readable_suffixes

SKIPPED = {"@eaDir", "__MACOSX"}  # thumbnails of network storage, and what macOS adds to archives
TARS = (".tar", ".tar.gz", ".tgz")
RECENT = 2_000_000_000  # nanoseconds: a folder that changed so shortly before may change again without a new time


class Listing(BaseModel):
    """What is in a folder. `changed` is its time in nanoseconds, -1 if it must be listed again."""

    changed: int
    images: list[str] = []
    folders: list[str] = []
    archives: list[str] = []


class Archive(BaseModel):
    """An archive that is not unpacked, with its size and time, and the names of its images: `None` if it is damaged
    or would have to be read whole (tar)."""

    size: int
    changed: int
    images: list[str] | None = None


class ImageIndex(BaseModel):
    """The folders below a root and the archives in them, by path relative to the root."""

    folders: dict[str, Listing] = {}
    archives: dict[str, Archive] = {}

    def images(self) -> Iterator[tuple[str, str]]:
        """Yield folder and name of every image file."""
        for folder, listing in self.folders.items():
            for name in listing.images:
                yield folder, name


def image_index(root: Path) -> ImageIndex:
    """List the image files and archives below a folder. Symbolic links are followed; hidden folders, those of
    thumbnails, and folders that cannot be read are left out."""
    cached = _cache_file(root)
    try:
        old = ImageIndex.model_validate_json(cached.read_bytes())
    except (OSError, ValueError):  # there is none, or it is damaged
        old = ImageIndex()
    new = _bring_up_to_date(root, old)
    if new != old:
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            part = cached.with_suffix(f".{os.getpid()}")
            part.write_text(new.model_dump_json(), encoding="utf-8")
            part.replace(cached)
        except OSError:  # the index is a convenience: without a place for it, it is made each time
            pass
    return new


def _cache_file(root: Path) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "contextcir", "images", f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.json")


def _bring_up_to_date(root: Path, old: ImageIndex) -> ImageIndex:
    new, seen, waiting = ImageIndex(), set(), [""]
    while waiting:
        folder = waiting.pop()
        try:
            facts = os.stat(root / folder)
            if (facts.st_dev, facts.st_ino) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino))
            listing = old.folders.get(folder)
            if listing is None or listing.changed != facts.st_mtime_ns:
                listing = _list(root / folder, facts.st_mtime_ns)
            for name in listing.archives:
                path = os.path.join(folder, name)
                new.archives[path] = _look_into(root / path, old.archives.get(path))
        except OSError:
            continue
        new.folders[folder] = listing
        waiting += [os.path.join(folder, name) for name in reversed(listing.folders)]
    return new


def _list(folder: Path, changed: int) -> Listing:
    suffixes, listing = readable_suffixes(), Listing(changed=changed)
    if changed > time.time_ns() - RECENT:
        listing.changed = -1
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = entry.name
            if name.startswith(".") or name in SKIPPED:
                continue
            if entry.is_dir():
                listing.folders.append(name)
            elif os.path.splitext(name)[1].lower() in suffixes:
                listing.images.append(name)
            elif name.lower().endswith((".zip", *TARS)):
                listing.archives.append(name)
    return listing


def _look_into(path: Path, known: Archive | None) -> Archive:
    facts = os.stat(path)
    if known and (known.size, known.changed) == (facts.st_size, facts.st_mtime_ns):
        return known
    archive = Archive(size=facts.st_size, changed=facts.st_mtime_ns)
    if path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as opened:
                archive.images = [os.path.basename(name) for name in opened.namelist() if not name.endswith("/")]
        except (zipfile.BadZipFile, NotImplementedError, ValueError):
            pass
    return archive
