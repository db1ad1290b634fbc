"""What others get to see of a run: its data, report, figures and card. The ledger stays."""

from pathlib import Path

from contextcir.hub import upload_dataset

PUBLISHED = ("README.md", "dataset.json", "pairs.jsonl", "report.json", "triplets/train-*", "figures/*")


def publish(folder: Path, name: str, *, public: bool = False) -> None:
    """
    Push what others need of the folder of a run.

    Args:
        folder (`Path`): Of a run that has been written.
        name (`str`): Of the dataset on the Hub, made if it is not there.
        public (`bool`, defaults to `False`): Whether a dataset that is made is for everybody to see.
    """
    # What is replaced is what a larger run has left there.
    upload_dataset(folder, name, public=public, allow=PUBLISHED, replace=("triplets/*", "figures/*"))
