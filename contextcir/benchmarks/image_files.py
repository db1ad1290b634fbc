"""Find the image files of a benchmark: at their official places, or else by name anywhere below its folder.

Projects tell their users to unpack the same pictures in different ways: by category, flat, numbered, one folder
deeper. The official place is preferred. Of several others, the one most like it is taken; two that are equally like it
must have the same content. Files that are empty, or no files, are missing.
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
        from_web (`bool`, *optional*, defaults to `False`): Whether another suffix of `WEB_SUFFIXES` will do.
        near (`str`, *optional*): Name of a folder to prefer.

    Returns:
        `FoundImages`

    Raises:
        `ValueError`: An image is in two places with different content, and neither is the official one.
    """
    paths = {id_: _first_usable(root, some) for id_, some in places.items()}
    lost = [id_ for id_, path in paths.items() if path is None]
    found = {id_: path or root / places[id_][0] for id_, path in paths.items()}
    if not lost:
        return FoundImages(what, found, {})
    index = image_index(root)
    elsewhere = _search(root, index, {id_: places[id_][0] for id_ in lost}, what, same_folders, from_web, near)
    missing = {id_: f"{found[id_]} ({_reason(found[id_])})" for id_ in lost if id_ not in elsewhere}
    names = {key_of(os.path.basename(places[id_][0]), from_web) for id_ in missing}
    taken = [_taken(root, places, elsewhere, what)] if elsewhere else []
    archives = unpacking(root, index, names, from_web) if missing else ()
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


def _usable(path: str | Path) -> bool:
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # a name may hold what no file name can
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size > 0


def _first_usable(root: Path, places: Sequence[str]) -> Path | None:
    return next((root / place for place in places if _usable(os.path.join(root, place))), None)


def _reason(path: Path) -> str:
    try:
        return "empty" if stat.S_ISREG(os.stat(path).st_mode) else "not a file"
    except (OSError, ValueError):
        return "missing"


def _search(
    root: Path, index: ImageIndex, lost: Mapping[str, str], what: str, same_folders: int, from_web: bool, near: str
) -> dict[str, Path]:
    """Return id -> file at another place, for those of the lost images that have one."""
    keys = {key_of(os.path.basename(place), from_web) for place in lost.values()}
    by_key: dict[str, list[str]] = {}
    for folder, name in index.images():
        if (key := key_of(name, from_web)) in keys:
            by_key.setdefault(key, []).append(os.path.join(folder, name))
    found, ambiguous = {}, []
    for id_, official in lost.items():
        wanted = Path(official)
        ranked: dict[tuple, list[Path]] = {}
        for place in map(Path, by_key.get(key_of(wanted.name, from_web), ())):
            shared = _shared_folders(place, wanted)
            if shared >= same_folders and _usable(root / place):
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
            f" {other}: remove one, or move the right one to {root / lost[id_]}."
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
