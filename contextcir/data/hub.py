"""Publish folders on the Hub: only files that are named, without local paths, and never a key or a token.

Everything that this library publishes goes through [`publish_folder`].
"""

import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from contextcir.data.portable import portable_copies
from contextcir.data.secret_scan import refuse_secrets

DATA_FILES = ("README.md", "*.parquet")
COMMIT = "COMMIT_OF_THIS_MODEL"  # in a card: replaced by the commit that the card belongs to


def publish_folder(
    folder: str | os.PathLike,
    name: str,
    *,
    files: Sequence[str],
    kind: str = "model",
    public: bool = False,
    replace: Sequence[str] = (),
    message: str = "Publish with contextcir",
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """
    Publish some files of a folder, in one commit. Cards and records are published without the paths of this machine.

    Args:
        folder (`str` or `os.PathLike`): The folder. It is not changed.
        name (`str`): Name on the Hub. The repository is created if it does not exist.
        files (`Sequence[str]`): Patterns of the files to publish, relative to the folder; `*` matches folders as well.
        kind (`str`, defaults to `"model"`): `"model"` or `"dataset"`.
        public (`bool`, defaults to `False`): Whether a repository that is created is public.
        replace (`Sequence[str]`): Patterns of the files to delete on the Hub if they are not published again, such as
            shards of an earlier build.
        message (`str`): Message of the commit.
        revision (`str`, *optional*): Branch to publish to.
        token (`str`, *optional*): Token of the Hub; by default that of `hf auth login` or `HF_TOKEN`.

    Returns:
        `str`: The commit. Where the card holds [`COMMIT`], a second commit puts the first one there.

    Raises:
        ValueError: A file seems to hold a key, token or password, or no file has such a name. Nothing is uploaded.
    """
    chosen = files_of(folder, files)
    if not chosen:
        raise ValueError(f"{folder} has none of {', '.join(files)}. There is nothing to publish.")
    with TemporaryDirectory() as copies:
        contents = portable_copies(folder, chosen, Path(copies))
        refuse_secrets(contents)
        api = HfApi(token=token)
        name = api.create_repo(name, repo_type=kind, private=not public, exist_ok=True).repo_id
        there = api.list_repo_files(name, repo_type=kind, revision=revision) if replace else []
        gone = [file for file in there if file not in contents and any(fnmatch(file, one) for one in replace)]
        operations: list[Any] = [
            *(CommitOperationAdd(file, str(path)) for file, path in contents.items()),
            *(CommitOperationDelete(file) for file in gone),
        ]
        where: dict[str, Any] = {"repo_type": kind, "revision": revision}
        commit = api.create_commit(name, operations, commit_message=message, **where).oid
        card = contents["README.md"].read_text(encoding="utf-8") if "README.md" in contents else ""
        if COMMIT in card:
            again = CommitOperationAdd("README.md", card.replace(COMMIT, commit).encode())
            api.create_commit(name, [again], commit_message="Name the commit in the card", **where)
        return commit


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
