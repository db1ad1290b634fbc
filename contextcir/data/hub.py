"""Folders of data on the Hub."""

import os
from collections.abc import Sequence

from huggingface_hub import HfApi


def upload_dataset(
    folder: str | os.PathLike,
    name: str,
    *,
    public: bool = False,
    allow: Sequence[str] | None = None,
    replace: Sequence[str] = ("*.parquet",),
) -> None:
    """
    Push a folder as a data set.

    Args:
        folder (`str` or `os.PathLike`): With its card, `README.md`.
        name (`str`): On the Hub; the data set is made if it is not there.
        public (`bool`, defaults to `False`): Whether a data set that is made is for everybody to see.
        allow (`Sequence[str]`, *optional*): Patterns of the files that are pushed; by default all.
        replace (`Sequence[str]`): Patterns of the files that go from the Hub where the folder has them no more, such
            as those of an earlier build with more of them.
    """
    api = HfApi()
    api.create_repo(name, repo_type="dataset", private=not public, exist_ok=True)
    api.upload_folder(
        repo_id=name,
        repo_type="dataset",
        folder_path=folder,
        allow_patterns=None if allow is None else list(allow),
        delete_patterns=list(replace),
    )
