"""Take the paths of this machine out of records and cards before they are published."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CACHED = re.compile(r"(?:^|[\\/])(?:models|datasets)--([\w.-]+?)(?:--([\w.-]+?))?(?:[\\/]|$)")  # of the Hub's client
_IN_TEXT = re.compile(
    r"""(?<![\w:/.~\\-]) (?:file://)? ( (?: / | [A-Za-z]:\\ ) [^\s"'`,;:()\[\]{}|<>]+ )""", re.VERBOSE
)
# First folders of absolute paths. A path of another machine is recognised as well, and `/v1/chat` is no path.
_ROOTS = {"home", "Users", "root", "mnt", "data", "tmp", "var", "opt", "usr", "srv", "media", "scratch", "Volumes"}
_ROOTS |= {"workspace", "content", "kaggle", "private", "lustre", "nfs", "gpfs"}
_TEXTS = (".md", ".json", ".jsonl", ".yaml")
_NOT_OURS = {"tokenizer.json", "vocab.json", "added_tokens.json"}  # whose words may look like paths


def is_local_path(text: str) -> bool:
    """Return whether a text is an absolute path, of this machine or of one like it."""
    if re.match(r"[A-Za-z]:\\.", text):
        return True
    parts = text.split("/")
    if len(text) > 4096 or "\n" in text or len(parts) < 3 or parts[0] or not parts[1]:
        return False
    return parts[1] in _ROOTS or os.path.isdir(f"/{parts[1]}")


def portable_path(path: str, folder: str | os.PathLike) -> str:
    """
    Say a local path in a way that means something elsewhere.

    Args:
        path (`str`): An absolute path.
        folder (`str` or `os.PathLike`): The folder that is published.

    Returns:
        `str`: A name on the Hub for a path in its cache; a relative path inside the published or the working folder;
        for any other path its last part.
    """
    if cached := _CACHED.search(path):
        return "/".join(filter(None, cached.groups()))
    clean = os.path.normpath(path)
    for root in (os.path.abspath(folder), os.path.realpath(folder)):
        if clean == root:
            return os.path.basename(root)
        if clean.startswith(root + os.sep):
            return os.path.relpath(clean, root)
    for root in (os.getcwd(), os.path.realpath(os.getcwd())):
        if clean.startswith(root + os.sep) and root != os.sep:
            return os.path.relpath(clean, root)
    return re.split(r"[\\/]", clean)[-1]


class LocalPaths:
    """Replaces the local paths of all records of one folder, and remembers them: a path with a space is recognised in
    the card if it is a value of `training.json`."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = folder
        self._known: dict[str, str] = {}

    def learn(self, text: str) -> None:
        """Collect the paths that are values of a JSON file."""
        try:
            values = list(_strings(json.loads(text)))
        except ValueError:
            return
        self._known |= {value: portable_path(value, self.folder) for value in values if is_local_path(value)}

    def replace(self, text: str) -> str:
        """Return a text without local paths."""
        for path in sorted(self._known, key=len, reverse=True):
            text = text.replace(path, self._known[path])

        def portable(found: re.Match) -> str:
            path = found.group(1).rstrip(".*_")
            rest = found.group(1)[len(path) :]
            return portable_path(path, self.folder) + rest if is_local_path(path) else found.group()

        return _IN_TEXT.sub(portable, text)


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, (dict, list)):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _strings(value)


def portable_copies(folder: str | os.PathLike, names: list[str], to: Path) -> dict[str, Path]:
    """
    Copy the records and cards of a folder that name local paths, without these.

    Args:
        folder (`str` or `os.PathLike`): The folder that is published. It is not changed.
        names (`list[str]`): Its files that are published.
        to (`Path`): Folder for the copies.

    Returns:
        `dict[str, Path]`: Each name -> the file to publish: the original, or a copy.
    """
    files = {name: Path(folder, name) for name in names}
    texts = [name for name in names if name.endswith(_TEXTS) and Path(name).name not in _NOT_OURS]
    paths = LocalPaths(folder)
    for name in texts:
        if name.endswith(".json"):
            paths.learn(files[name].read_text(encoding="utf-8"))
    for number, name in enumerate(texts):
        copy, changed = to / f"{number}{Path(name).suffix}", False
        with (
            open(files[name], encoding="utf-8", newline="") as source,
            open(copy, "w", encoding="utf-8", newline="") as out,
        ):
            for line in source:
                replaced = paths.replace(line)
                changed |= replaced != line
                out.write(replaced)
        if changed:
            files[name] = copy
    return files
