"""Publish a data set: Parquet files, its card, and the records and figures beside them.

    contextcir publish dataset data/mine my-name/my-data

The folder is one that `contextcir data`, `contextcir generate` or `contextcir phrases` has written, or your own, with
a card in `README.md`. What the card lacks for a complete Croissant record is printed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser

RECORDS = ("scenes.json", "dataset.json", "pairs.jsonl", "report.json", "figures/*.png")


@dataclass
class DatasetArguments:
    """What to publish, and where."""

    _argument_group_name = "Publishing"

    folder: str = HfArg(help="Folder with a card, README.md, and Parquet files.")
    name: str = HfArg(help="Hub name, such as my-name/my-data.")
    public: bool = HfArg(default=False, help="Publish the data set for everybody to see.")
    branch: str | None = HfArg(default=None, help="Branch to publish to; by default main.")


def main(argv: Sequence[str]) -> str:
    """Publish the folder. Returns the commit."""
    parser = CommandParser([DatasetArguments], "contextcir publish dataset", __doc__, ("folder", "name"))
    (args,) = parser.parse(argv)
    from contextcir.data.card_fields import lacking
    from contextcir.data.hub import DATA_FILES, files_of, publish_folder
    from contextcir.data.source_card import read_card

    card = read_card(args.folder) if Path(args.folder).is_dir() else None
    if card is None or not files_of(args.folder, ["*.parquet"]):
        raise ValueError(f"{args.folder}: expected a folder with a card, README.md, and Parquet files.")
    if missing := lacking(card):
        print(f"The card lacks {', '.join(missing)}.")
    options = {"public": args.public, "revision": args.branch, "replace": ("*.parquet", "figures/*.png")}
    commit = publish_folder(args.folder, args.name, kind="dataset", files=(*DATA_FILES, *RECORDS), **options)
    print(f"Published: {args.name}, commit {commit}")
    return commit
