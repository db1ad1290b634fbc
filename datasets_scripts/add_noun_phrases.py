"""Add the `noun_phrases` column to triplets: what the concept-consistency loss speaks of.

    python datasets_scripts/add_noun_phrases.py data/scenes/triplets
    python datasets_scripts/add_noun_phrases.py my-name/triplets --output_dir data/triplets \\
        --push_to_hub my-name/triplets-np

Every distinct text is parsed once. `datasets` caches the result under a fingerprint made of the data, the parser's
weights and the options, so a second run is instant and a better parser is not mistaken for the old one.
"""

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from datasets.fingerprint import Hasher
from datasets.table import embed_table_storage
from transformers import HfArgumentParser

from contextcir.noun_phrases import NounPhraseExtractor
from contextcir.triplets import TRIPLET_FEATURES, load_triplets


@dataclass
class Arguments:
    """Where the triplets are, and which phrases to take."""

    data: str = field(metadata={"help": "Folder of Parquet files, image folder or Hub name."})
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for the Parquet files; by default they take the place of the data's own."},
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Configuration of the data set, such as triplets."}
    )
    parser: str | None = field(default=None, metadata={"help": "benepar name or path; by default the shipped parser."})
    max_phrases: int = field(default=10, metadata={"help": "At most so many for a text (the paper's value: 10)."})
    leaf_only: bool = field(default=False, metadata={"help": "Only phrases without a phrase inside."})
    batch_size: int = field(default=2000, metadata={"help": "Texts that are parsed together."})
    push_to_hub: str | None = field(default=None, metadata={"help": "Hub name to publish under (private)."})

    def __post_init__(self):
        if self.output_dir is None and not Path(self.data).is_dir():
            if self.push_to_hub is None:
                raise ValueError(
                    f"{self.data!r} is no local folder: say where to write with --output_dir or --push_to_hub."
                )


def add_noun_phrases(
    dataset: datasets.Dataset, extractor: NounPhraseExtractor, batch_size: int = 2000
) -> tuple[datasets.Dataset, dict]:
    """
    Fill the `noun_phrases` column from `modification_text`.

    Args:
        dataset (`datasets.Dataset`): Triplets; an older `noun_phrases` column is replaced.
        extractor (`NounPhraseExtractor`): Finds the phrases.
        batch_size (`int`, defaults to 2000): Texts that are parsed together.

    Returns:
        `tuple[datasets.Dataset, dict]`: The triplets with the columns of `TRIPLET_FEATURES`, and counts: `rows`,
        `distinct_texts`, `noun_phrases` and `without_noun_phrase` (normal: such a triplet has no consistency loss).
    """
    known = {}

    def extract(texts):
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, extractor.extract(new), strict=True))
        return {"noun_phrases": [known[text] for text in texts]}

    dataset = dataset.map(
        extract,
        input_columns="modification_text",
        batched=True,
        batch_size=batch_size,
        features=datasets.Features(dataset.features | {"noun_phrases": TRIPLET_FEATURES["noun_phrases"]}),
        new_fingerprint=Hasher.hash((dataset._fingerprint, extractor.fingerprint)),
        desc="Finding noun phrases",
    )
    counts = [len(phrases) for phrases in dataset["noun_phrases"]]
    return dataset.select_columns(list(TRIPLET_FEATURES)), {
        "rows": len(counts),
        "distinct_texts": len(dataset.unique("modification_text")),
        "noun_phrases": sum(counts),
        "without_noun_phrase": counts.count(0),
    }


def files_to_replace(data: str, config_name: str | None, splits: list[str], folder: Path) -> dict[str, list[Path]]:
    """
    The older Parquet files of each split in the folder that is written to. Where it is the data's own, whatever its
    layout, these are the very files that the split is read from.

    Raises:
        ValueError: where the data's own folder could not be read any more, or would hold the triplets twice.
    """
    if not folder.is_dir() or folder.resolve() != Path(data).resolve():
        return {split: sorted(folder.glob(f"{split}-*.parquet")) for split in splits}
    builder = datasets.load_dataset_builder(data, config_name)
    files = {str(split): [Path(path) for path in paths] for split, paths in builder.config.data_files.items()}
    others = [path.name for paths in files.values() for path in paths if path.suffix != ".parquet"]
    problem = None
    if others:
        problem = f"it is read from {others[0]}, which is no Parquet file"
    elif builder.info.features is not None and "noun_phrases" not in builder.info.features:
        problem = "the columns that its README.md lists in the header have no noun_phrases"
    if problem:
        raise ValueError(f"{data} cannot be changed in place: {problem}. Write to another folder with --output_dir.")
    return files


def write_parquet(dataset: datasets.Dataset, folder: Path, split: str, replaced: list[Path]) -> None:
    """One file with the images inside, in place of all older files of the split; readers never see half a file."""
    target = folder / f"{split}-00000-of-00001.parquet"
    if replaced:  # where a card or a sub-folder says which split it is
        target = replaced[0].with_name(re.sub(r"-\d{5}-of-\d{5}(?=\.parquet$)", "-00000-of-00001", replaced[0].name))
    target.parent.mkdir(parents=True, exist_ok=True)
    embedded = dataset.with_format("arrow").map(
        embed_table_storage, batched=True, batch_size=200, desc="Embedding images"
    )
    unfinished = target.with_name(f".{target.name}.tmp")
    embedded.with_format(None).to_parquet(unfinished)
    unfinished.replace(target)
    for old in replaced:
        if old != target:
            old.unlink()


def main(argv=None) -> dict:
    """Run from the command line; returns the counts of each split."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv.insert(0, "--data")
    (args,) = HfArgumentParser(Arguments, description=__doc__.split("\n")[0]).parse_args_into_dataclasses(argv)
    splits = datasets.get_dataset_split_names(args.data, args.config_name)
    folder = Path(args.output_dir or args.data)
    writing = args.output_dir is not None or args.push_to_hub is None
    replaced = files_to_replace(args.data, args.config_name, splits, folder) if writing else {}
    extractor = NounPhraseExtractor(args.parser, max_phrases=args.max_phrases, leaf_only=args.leaf_only)
    triplets, counts = datasets.DatasetDict(), {}
    for split in splits:
        dataset = load_triplets(args.data, split, config_name=args.config_name, require_noun_phrases=False)
        dataset, counts[split] = add_noun_phrases(dataset, extractor, args.batch_size)
        for column in ("reference_image", "target_image"):
            dataset = dataset.cast_column(column, datasets.Image())
        triplets[split] = dataset
    for split, files in replaced.items():
        write_parquet(triplets[split], folder, split, files)
    if args.push_to_hub is not None:
        triplets.push_to_hub(args.push_to_hub, config_name=args.config_name or "default", private=True)
    print(json.dumps(counts, indent=1))
    return counts


if __name__ == "__main__":
    main()
