"""Find the image files of a benchmark: at their official places, or else by name anywhere below its folder.

Projects tell their users to unpack the same pictures in different ways: by category, flat, numbered, one folder
deeper. The official place is preferred. Of several others, the one most like it is taken; two that are equally like it
must have the same content. An empty file, or a folder of this name, is a missing image.
"""

import filecmp
import os
import shlex
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contextcir.benchmarks.image_index import ImageIndex, image_index

WEB_SUFFIXES = (".png", ".jpg")  # of pictures from the web, whose addresses do not say which


@dataclass(frozen=True)
class FoundImages:
    """
    Where the images of a benchmark are.

    Attributes:
        what (`str`): The benchmark and split, for messages.
        paths (`dict[str, Path]`): Id -> file; the official place if the image is missing.
        missing (`dict[str, str]`): Id of an image that is not there -> its official place, and why it is missing.
        remarks (`tuple[str, ...]`): Sentences about other places than the official ones, and about archives that
            hold, or may hold, missing images.
    """

    what: str
    paths: dict[str, Path]
    missing: dict[str, str]
    remarks: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise a `ValueError` that names some of the images that are missing, if any are, and what to do."""
        if not self.missing:
            return
        lost = list(dict.fromkeys(str(self.paths[id_]) for id_ in self.missing))  # several ids may have one file
        advice = list(self.remarks)
        if len(self.missing) < len(self.paths):
            advice.append(
                "contextcir doctor --output FILE lists all. contextcir benchmark --missing skip measures without them"
                " and the queries that need them, under another protocol id. contextcir data has --missing, too."
            )
        counts = f"{len(lost):,} of {len(set(self.paths.values())):,} images are missing or empty"
        raise ValueError(" ".join([f"{self.what}: {counts}, such as {', '.join(lost[:3])}.", *advice]))


def find_images(
    root: Path,
    places: Mapping[str, Sequence[str]],
    what: str,
    *,
    same_folders: int = 0,
    from_web: bool = False,
    near: str = "",
) -> FoundImages:
    """
    Find images below a folder.

    Args:
        root (`Path`): The folder.
        places (`Mapping[str, Sequence[str]]`): Id -> its official places relative to the folder, the best first.
        what (`str`): The benchmark and split, for messages.
        same_folders (`int`, *optional*, defaults to 0): How many folders above an image must have the official names,
            if its own name alone does not identify it.
        from_web (`bool`, *optional*, defaults to `False`): Whether the images are from the web: another suffix
            of `WEB_SUFFIXES` will do, and a web page is no image.
        near (`str`, *optional*): Name of a folder to prefer.

    Returns:
        `FoundImages`

    Raises:
        `ValueError`: An image is in two places with different content, and neither is the official one.
    """
    paths = {id_: _first_usable(root, some, from_web) for id_, some in places.items()}
    lost = [id_ for id_, path in paths.items() if path is None]
    found = {id_: path or root / places[id_][0] for id_, path in paths.items()}
    if not lost:
        return FoundImages(what, found, {})
    index = image_index(root)
    by_key: dict[str, list[str]] = {}
    for folder, name in index.images():
        by_key.setdefault(key_of(name, from_web), []).append(os.path.join(folder, name))
    keys = {id_: key_of(os.path.basename(places[id_][0]), from_web) for id_ in lost}
    candidates = {id_: by_key[key] for id_, key in keys.items() if key in by_key}
    elsewhere = _choose(root, places, candidates, what, same_folders, from_web, near)
    missing = {id_: _missing(root, places[id_], from_web) for id_ in lost if id_ not in elsewhere}
    taken = [_taken(root, places, elsewhere, what)] if elsewhere else []
    archives = unpacking(root, index, {keys[id_] for id_ in missing}, from_web) if missing else ()
    return FoundImages(what, found | elsewhere, missing, (*taken, *archives))


def key_of(name: str, from_web: bool) -> str:
    """Return a name as images are compared by it: the suffix in lower case, `.jpeg` as `.jpg`, or without it."""
    stem, suffix = os.path.splitext(name)
    suffix = suffix.lower().replace(".jpeg", ".jpg")
    return stem if from_web and suffix in WEB_SUFFIXES else stem + suffix


def unpacking(root: Path, index: ImageIndex, names: set[str], from_web: bool = False) -> Iterable[str]:
    """Yield a sentence with the command for each archive that holds images of these names, or may hold them."""
    for place, archive in index.archives.items():
        path = root / place
        file, folder = shlex.quote(str(path)), shlex.quote(str(path.parent))
        if archive.images is not None:
            if held := sum(key_of(name, from_web) in names for name in archive.images):
                yield f"{held:,} of this name are in {path}, unpack it: python -m zipfile -e {file} {folder}."
        elif path.suffix.lower() == ".zip":
            yield f"{path} is damaged: download it again."
        else:
            yield f"{path} is not unpacked: if it holds them, tar -xf {file} -C {folder}."


def _fault(path: str | Path, from_web: bool) -> str | None:
    """Say why a path is no image, as far as can be seen at a glance; `None` if it may be one."""
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):
            return "not a file"
        if not facts.st_size:
            return "empty"
        if from_web:
            with open(path, "rb") as file:
                if file.read(64).lstrip().startswith(b"<"):  # the answer for a dead address, saved as a picture
                    return "a web page"
    except (OSError, ValueError):  # a name may hold what no file name can
        return "missing"
    return None


def _first_usable(root: Path, places: Sequence[str], from_web: bool) -> Path | None:
    return next((root / place for place in places if not _fault(os.path.join(root, place), from_web)), None)


def _missing(root: Path, places: Sequence[str], from_web: bool) -> str:
    """Return the official place with what is there, or the first one if there is nothing."""
    faults = {place: _fault(root / place, from_web) for place in places}
    place = next((place for place, fault in faults.items() if fault != "missing"), places[0])
    return f"{root / place} ({faults[place]})"


def _choose(
    root: Path,
    places: Mapping[str, Sequence[str]],
    candidates: Mapping[str, Sequence[str]],
    what: str,
    same_folders: int,
    from_web: bool,
    near: str,
) -> dict[str, Path]:
    """Return id -> the best of the files with its name, for those of the images that have one."""
    found, ambiguous = {}, []
    for id_, named in candidates.items():
        wanted = Path(places[id_][0])
        ranked: dict[tuple, list[Path]] = {}
        for place in map(Path, named):
            shared = _shared_folders(place, wanted)
            if shared >= same_folders and not _fault(root / place, from_web):
                likeness = (near in place.parts, shared, place.name == wanted.name, place.suffix.lower() == ".png")
                ranked.setdefault(likeness, []).append(root / place)
        if not ranked:
            continue
        first, *others = sorted(ranked[max(ranked)])
        found[id_] = first
        if other := next((path for path in others if not filecmp.cmp(first, path, shallow=False)), None):
            ambiguous.append((id_, first, other))
    if ambiguous:
        id_, first, other = ambiguous[0]
        raise ValueError(
            f"{what}: {len(ambiguous):,} images are in two places with different content. {id_!r} is at {first} and at"
            f" {other}: remove one, or move the right one to {root / places[id_][0]}."
        )
    return found


def _shared_folders(place: Path, official: Path) -> int:
    """How many folders above two files have the same names, from the file upwards."""
    shared = 0
    for one, other in zip(reversed(place.parts[:-1]), reversed(official.parts[:-1]), strict=False):
        if one != other:
            break
        shared += 1
    return shared


def _taken(root: Path, places: Mapping[str, Sequence[str]], elsewhere: Mapping[str, Path], what: str) -> str:
    official = Counter(str(Path(places[id_][0]).parent) for id_ in elsewhere)
    taken = Counter(str(path.parent.relative_to(root)) for path in elsewhere.values())
    return (
        f"{what}: {len(elsewhere):,} images are not at their official place, {_folders(official)}. They were taken"
        f" from {_folders(taken)}."
    )


def _folders(counts: Counter[str]) -> str:
    named = ", ".join(f"{folder} ({count:,})" for folder, count in counts.most_common(3))
    return named + (f" and {len(counts) - 3:,} more folders" if len(counts) > 3 else "")
