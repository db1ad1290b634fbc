"""Publish folders on the Hub: only files that are named, without local paths, and never a key or a token.

Everything that this library publishes goes through [`publish_files`].
"""

import os
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from contextcir.data.portable import portable_copies
from contextcir.data.secret_scan import refuse_secrets

DATA_FILES = ("README.md", "*.parquet")
LARGE = (".parquet", ".safetensors")
PART_FILES, PART_BYTES = 100, 2_000_000_000  # of one commit, if an upload is larger
COMMIT = "COMMIT_OF_THIS_MODEL"  # in a card: replaced by the commit that the card belongs to


def publish_folder(folder: str | os.PathLike, name: str, *, files: Sequence[str], **options: Any) -> str:
    """
    Publish some files of a folder. Cards and records are published without the paths of this machine.

    Args:
        folder (`str` or `os.PathLike`): The folder. It is not changed.
        name (`str`): Name on the Hub. The repository is created if it does not exist.
        files (`Sequence[str]`): Patterns of the files to publish, relative to the folder; `*` matches folders as well.
        **options: As for [`publish_files`], also for results and errors.
    """
    chosen = files_of(folder, files)
    if not chosen:
        raise ValueError(f"{folder} has none of {', '.join(files)}. There is nothing to publish.")
    with TemporaryDirectory() as copies:
        return publish_files(portable_copies(folder, chosen, Path(copies)), name, **options)


def publish_files(
    contents: Mapping[str, Path],
    name: str,
    *,
    kind: str = "model",
    public: bool = False,
    replace: Sequence[str] = (),
    message: str = "Publish with contextcir",
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """
    Publish files as they are: in one commit, or large ones in several. After an interruption the same call goes on:
    what the Hub has is not uploaded again.

    Of a large upload, files whose names are new come first, a part of them with each commit. All others come last, in
    one commit: cards, configs, manifests and what is replaced or deleted. So whoever reads meanwhile finds what was
    there before, whole.

    Args:
        contents (`Mapping[str, Path]`): Name in the repository -> file.
        name (`str`): Name on the Hub. The repository is created if it does not exist.
        kind (`str`, defaults to `"model"`): `"model"`, `"dataset"` or `"space"` (of Docker).
        public (`bool`, defaults to `False`): Whether a repository that is created is public.
        replace (`Sequence[str]`): Patterns of the files to delete on the Hub if they are not published again, such as
            shards of an earlier build.
        message (`str`): Message of the commit.
        revision (`str`, *optional*): Branch to publish to.
        token (`str`, *optional*): Token of the Hub; by default that of `hf auth login` or `HF_TOKEN`.

    Returns:
        `str`: The last commit. Where the card holds [`COMMIT`], one more puts that one there.

    Raises:
        ValueError: A file seems to hold a key, token or password. Nothing is uploaded.
    """
    refuse_secrets(contents)
    api = HfApi(token=token)
    sdk = "docker" if kind == "space" else None
    name = api.create_repo(name, repo_type=kind, private=not public, exist_ok=True, space_sdk=sdk).repo_id
    where: dict[str, Any] = {"repo_type": kind, "revision": revision}
    there = set(api.list_repo_files(name, **where))
    *parts, last = in_parts(contents, there)
    for part in parts:
        added = [CommitOperationAdd(file, str(contents[file])) for file in part]
        api.create_commit(name, added, commit_message=f"{message} ({len(part)} files of many)", **where)
    gone = [file for file in there if file not in contents and any(fnmatch(file, one) for one in replace)]
    operations: list[Any] = [
        *(CommitOperationAdd(file, str(contents[file])) for file in last),
        *(CommitOperationDelete(file) for file in gone),
    ]
    commit = api.create_commit(name, operations, commit_message=message, **where).oid
    card = contents["README.md"].read_text(encoding="utf-8") if "README.md" in contents else ""
    if COMMIT in card:
        again = CommitOperationAdd("README.md", card.replace(COMMIT, commit).encode())
        api.create_commit(name, [again], commit_message="Name the commit in the card", **where)
    return commit


def commit_of(name: str, kind: str, revision: str | None = None, token: str | None = None) -> str:
    """Return the commit of a repository that a branch or tag, by default the main one, names."""
    return str(HfApi(token=token).repo_info(name, repo_type=kind, revision=revision).sha)


def in_parts(contents: Mapping[str, Path], there: Collection[str]) -> list[list[str]]:
    """Divide files into those of each commit: large ones with new names, and last all others."""
    sizes = {file: path.stat().st_size for file, path in contents.items()}
    if len(sizes) <= PART_FILES and sum(sizes.values()) <= PART_BYTES:
        return [list(sizes)]
    parts: list[list[str]] = [[]]
    taken = 0
    for file in sizes:
        if file.endswith(LARGE) and file not in there:
            if parts[-1] and (len(parts[-1]) == PART_FILES or taken + sizes[file] > PART_BYTES):
                parts.append([])
                taken = 0
            parts[-1].append(file)
            taken += sizes[file]
    early = {file for part in parts for file in part}
    return [*filter(None, parts), [file for file in sizes if file not in early]]


def files_of(folder: str | os.PathLike, patterns: Sequence[str]) -> list[str]:
    """Return the files of a folder that a pattern matches, relative to it. Hidden files and links out of the folder
    never match."""
    root = Path(folder).resolve()
    found = []
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith((".", "_")) for part in name.split("/"))
        if path.is_file() and not hidden and path.resolve().is_relative_to(root):
            if any(fnmatch(name, pattern) for pattern in patterns):
                found.append(name)
    return found


def upload_dataset(
    folder: str | Path,
    name: str,
    *,
    public: bool = False,
    allow: Sequence[str] = DATA_FILES,
    replace: Sequence[str] = ("*.parquet",),
) -> None:
    """Publish a folder as a data set, as [`publish_folder`] does. `allow` are patterns of the files to publish."""
    publish_folder(folder, name, kind="dataset", files=allow, public=public, replace=replace)
