"""Find noun phrases: of texts, or of a data set of triplets, which gets them as its column `noun_phrases`.

    contextcir phrases data/scenes/triplets
    contextcir phrases my-name/triplets --output_dir data/triplets --push_to_hub my-name/triplets-np
    contextcir phrases --texts "make the red circle blue" "add a dog"

Every distinct text is parsed once. `datasets` caches the result under a fingerprint made of the data, the parser's
weights and the options: a second run is instant, and another parser is not mistaken for the first.

The card of a new or published data set carries on the licence, the tags and the text of its source, and names the
parser with the digest of its weights.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser


@dataclass
class PhraseArguments:
    """Which texts, and which phrases of them."""

    _argument_group_name = "Noun phrases"

    data: str | None = HfArg(default=None, help="Triplets: folder of Parquet files, image folder or Hub name.")
    texts: list[str] | None = HfArg(default=None, help="Texts whose phrases are printed, a line each.")
    output_dir: str | None = HfArg(
        default=None, help="Folder for the Parquet files; by default those of the data are replaced."
    )
    config_name: str | None = HfArg(default=None, help="Configuration of the data set, such as triplets.")
    parser: str | None = HfArg(default=None, help="benepar name or path; by default the shipped parser.")
    max_phrases: int = HfArg(default=10, help="Most phrases of a text (the paper's value).")
    leaf_only: bool = HfArg(default=False, help="Only phrases without a phrase inside.")
    concepts_only: bool = HfArg(
        default=True,
        help="Leave out phrases that name nothing in an image: the picture itself, pronouns, amounts.",
    )
    batch_size: int = HfArg(default=2000, help="Texts that are parsed together.")
    push_to_hub: str | None = HfArg(default=None, help="Hub name to publish under (private).")

    def __post_init__(self):
        if (self.data is None) == (self.texts is None):
            raise ValueError("Give either triplets, or --texts.")
        if self.data and not (self.output_dir or self.push_to_hub or Path(self.data).is_dir()):
            raise ValueError(f"There is no folder {self.data}: give --output_dir or --push_to_hub to write to.")


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Print the phrases of texts, or add them to triplets. Returns the phrases, or the counts of each split."""
    (args,) = CommandParser([PhraseArguments], "contextcir phrases", __doc__, ("data",)).parse(argv)
    from contextcir.phrases.extractor import NounPhraseExtractor

    options = {"max_phrases": args.max_phrases, "leaf_only": args.leaf_only, "concepts_only": args.concepts_only}
    extractor = NounPhraseExtractor(args.parser, **options)
    if args.texts:
        found = dict(zip(args.texts, extractor.extract(args.texts), strict=True))
        for text, phrases in found.items():
            print(f"{text}: {', '.join(phrase['text'] for phrase in phrases) or '(none)'}")
        return found
    counts = add_to_triplets(args, extractor)
    print(json.dumps(counts, indent=1))
    return counts


def add_to_triplets(args: PhraseArguments, extractor) -> dict[str, dict[str, int]]:
    """Add the column to every split, and write or push the triplets. Returns the counts of each split."""
    import datasets

    from contextcir.cli.triplet_files import files_to_replace, write_card, write_split
    from contextcir.data.triplets import add_noun_phrases, embedded_rows, load_triplets, stored_features
    from contextcir.runtime.locations import locate

    name = locate(args.data or "")
    splits = datasets.get_dataset_split_names(name, args.config_name)
    folder = Path(args.output_dir or name)
    replaced = {}
    if args.output_dir is not None or args.push_to_hub is None:
        replaced = files_to_replace(name, args.config_name, splits, folder, "noun_phrases")
    triplets, counts = datasets.DatasetDict(), {}
    for split in splits:
        dataset = load_triplets(name, split, config_name=args.config_name, require_noun_phrases=False, columns=None)
        triplets[split], counts[split] = add_noun_phrases(dataset, extractor, args.batch_size)
        if set(dataset.column_names) - set(triplets[split].column_names):
            print(f"{split}: phrase_maps are left out, which belong to the earlier noun phrases.", file=sys.stderr)
    if extractor.num_skipped:
        print(f"{extractor.num_skipped} texts have a sentence that is too long for the parser.", file=sys.stderr)
    for split, files in replaced.items():
        rows = triplets[split]
        write_split(embedded_rows(rows), stored_features(rows.features), folder, split, files)
    if replaced:
        write_card(folder, name, note(args, extractor), sum(found["rows"] for found in counts.values()))
    if args.push_to_hub is not None:
        publish(triplets, args, note(args, extractor))
    return counts


def note(args: PhraseArguments, extractor) -> str:
    """What a card says about the phrases."""
    source = Path(args.data or "").resolve().name if Path(args.data or "").exists() else args.data
    return (
        f"The triplets of `{source}`, with the noun phrases of their modification texts in the column `noun_phrases`"
        f" (`text`, `start`, `end`: characters), found by {extractor.description}."
    )


def publish(triplets, args: PhraseArguments, note: str) -> None:
    """Publish triplets, images inside, as one configuration of a data set. Others that it has stay."""
    from contextcir.data.hub import upload_dataset
    from contextcir.data.parquet import write_parquet
    from contextcir.data.source_card import read_card, write_derived_card
    from contextcir.data.triplets import embedded_rows, stored_features
    from contextcir.runtime.locations import locate

    config = args.config_name or "default"
    folder = "data" if config == "default" else config
    there = read_card(args.push_to_hub or "")
    configs = [one for one in (there.data.get("configs") if there else None) or [] if one["config_name"] != config]
    files = [{"split": split, "path": f"{folder}/{split}-*.parquet"} for split in triplets]
    configs.append({"config_name": config, "data_files": files})
    with TemporaryDirectory() as new:
        for split, rows in triplets.items():
            write_parquet(embedded_rows(rows), stored_features(rows.features), Path(new, folder), split)
        title = (args.push_to_hub or "").split("/")[-1]
        write_derived_card(new, title, note, source=locate(args.data or ""), configs=configs)
        upload_dataset(new, str(args.push_to_hub), replace=(f"{folder}/*.parquet",))
