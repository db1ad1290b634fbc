"""Upload folders of data to the Hub."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi


def upload_dataset(
    folder: str | Path,
    name: str,
    *,
    public: bool = False,
    allow: Sequence[str] | None = None,
    replace: Sequence[str] = ("*.parquet",),
) -> None:
    """
    Upload a folder as a data set.

    Args:
        folder (`str` or `Path`): Holds the card, `README.md`.
        name (`str`): Name on the Hub. The data set is created if it does not exist.
        public (`bool`, defaults to `False`): Whether a created data set is public.
        allow (`Sequence[str]`, *optional*): Patterns of the files to upload; by default all.
        replace (`Sequence[str]`): Patterns of the files to delete on the Hub if the folder does not hold them, such as
            further shards of an earlier build.
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
