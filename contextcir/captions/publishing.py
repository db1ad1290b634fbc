"""What others get to see of a run: its data, report, figures and card. The ledger stays."""

from pathlib import Path

from huggingface_hub import HfApi

PUBLISHED = ("README.md", "dataset.json", "pairs.jsonl", "report.json", "triplets/train-*", "figures/*")


def publish(folder: Path, name: str, *, public: bool = False) -> None:
    """
    Push what others need of the folder of a run.

    Args:
        folder (`Path`): Of a run that has been written.
        name (`str`): Of the dataset on the Hub, made if it is not there.
        public (`bool`, defaults to `False`): Whether a dataset that is made is for everybody to see.
    """
    api = HfApi()
    api.create_repo(name, repo_type="dataset", private=not public, exist_ok=True)
    api.upload_folder(
        repo_id=name,
        repo_type="dataset",
        folder_path=folder,
        allow_patterns=list(PUBLISHED),
        delete_patterns=["triplets/*", "figures/*"],  # what a larger run has left there
    )
