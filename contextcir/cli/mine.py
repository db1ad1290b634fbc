"""Mine hard negatives for triplets: images that a model takes for their targets, to train on.

    contextcir mine --model runs/first --data my-triplets --output my-triplets-mined
    contextcir train --model_name_or_path runs/first --data my-triplets-mined --hard_negatives 2 --output_dir runs/next

    contextcir index photos --model runs/first --output my-gallery
    contextcir mine --model runs/first --data my-triplets --gallery my-gallery --output my-triplets-mined

The negatives of a triplet are the best-ranked images that are not its target, in a gallery or, by default, among the
images of all triplets. Left out is what may be a right answer: the target and its copies by content, other targets of
the same query, near duplicates of these by the model's embeddings, and images that score above the target. `--ranks`,
`--max_above` and `--max_below` say how hard negatives are; `--max_above 0.1` also takes mistakes of the model, which
teach most where no right answer is missing among the targets.

The output is the data set with a column `negative_ids`, and the images that it names in a second configuration,
`negatives`. `mining.json` records the command, the weights of the model, and how many images were left out for which
reason. Mine once the noun phrases are there: all columns are carried on.
"""

import json
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.hf_argparser import HfArg

from contextcir.cli.engine_options import EXACT, EngineChoice
from contextcir.cli.gallery_options import EncoderChoice
from contextcir.cli.options import CommandParser

if TYPE_CHECKING:
    from contextcir.retrieval.mining import Bounds

RECORD = "mining.json"


@dataclass
class MineArguments:
    """The triplets, the gallery, and what becomes a negative."""

    _argument_group_name = "Mining"

    data: str = HfArg(help="Triplets: folder of Parquet files, image folder or Hub name.")
    output: str = HfArg(help="Folder of the mined data set. An earlier one is replaced.")
    gallery: str | None = HfArg(
        default=None, help="Gallery of `contextcir index`, by the same model (default: the images of the triplets)."
    )
    split: str = HfArg(default="train", help="Split to mine for. Others are copied, without negatives.")
    data_config: str | None = HfArg(default=None, help="Configuration of the data set, such as triplets.")
    data_revision: str | None = HfArg(default=None, help="Branch, tag or commit of the data on the Hub.")
    number: int = HfArg(default=8, help="Most negatives of a triplet, the best-ranked ones.")
    ranks: list[int] = field(
        default_factory=lambda: [1, 100], metadata={"help": "First and last rank that are looked at; 1 is the best."}
    )
    max_above: float = HfArg(
        default=0.0, help="Most by which a negative may score above the target (cosine); above it may be right."
    )
    max_below: float = HfArg(default=2.0, help="Most by which it may score below the target; below it is too easy.")
    near_duplicate: float = HfArg(default=0.98, help="Cosine from which an image counts as the same as a target.")
    keep_reference: bool = HfArg(default=False, help="Whether the reference image may be a negative.")

    def __post_init__(self):
        if len(self.ranks) != 2:
            raise ValueError(f"Got --ranks {' '.join(map(str, self.ranks))}, expected the first and the last rank.")

    def bounds(self) -> "Bounds":
        """Which images become negatives."""
        from contextcir.retrieval.mining import Bounds

        first, last = self.ranks
        values = {name: getattr(self, name) for name in ("number", "max_above", "max_below", "near_duplicate")}
        return Bounds(first_rank=first, last_rank=last, reference=self.keep_reference, **values)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Mine, and write the data set. Returns the record."""
    kinds = (MineArguments, EncoderChoice, EngineChoice)
    parser = CommandParser(kinds, "contextcir mine", __doc__)
    args, choice, engine = parser.parse(argv)
    if args.gallery is None and (choice.model is None or engine.index != EXACT):
        parser.error("Without --gallery, give --model and no --index.")
    bounds = args.bounds()
    check_output(Path(args.output))
    from contextcir.retrieval.base import Gallery
    from contextcir.retrieval.mining import mine
    from contextcir.retrieval.store.changes import require

    splits = load_splits(args)
    retriever = choice.retriever(require(Path(args.gallery)).encoder if args.gallery else None)
    gallery = None
    if args.gallery:
        gallery = Gallery.open(args.gallery, retriever)
        engine.open(gallery)
    mined, searched = mine(splits[args.split], retriever, gallery, bounds)
    if not mined.places:
        reasons = ", ".join(f"{reason} {count}" for reason, count in mined.left_out.items())
        raise ValueError(f"No negative was found. Left out: {reasons}. Widen --ranks, --max_above or --max_below.")
    record = describe(argv, args, asdict(bounds), retriever.identity, len(searched), mined.summary())
    write(args, splits, mined, searched, record)
    print(report(record))
    return record


def load_splits(args: MineArguments) -> dict[str, Any]:
    """All splits of the triplets, with all columns but the negatives of an earlier mining."""
    import datasets

    from contextcir.data.dataset_cache import cache_of
    from contextcir.data.negatives import NEGATIVE_IDS
    from contextcir.data.triplets import load_triplets
    from contextcir.runtime.locations import locate

    name, where = locate(args.data), {"config_name": args.data_config, "revision": args.data_revision}
    names = list(map(str, datasets.get_dataset_split_names(name, **where, cache_dir=cache_of(name))))
    if args.split not in names:
        raise ValueError(f"{args.data} has the splits {', '.join(names)}, not {args.split!r}.")
    loaded = {split: load_triplets(name, split, **where, require_noun_phrases=False, columns=None) for split in names}
    with_phrases = any(map(len, loaded[args.split]["noun_phrases"]))
    gone = {NEGATIVE_IDS} if with_phrases else {NEGATIVE_IDS, "noun_phrases"}
    return {
        split: rows.select_columns([column for column in rows.column_names if column not in gone])
        for split, rows in loaded.items()
    }


def write(args: MineArguments, splits: dict[str, Any], mined: Any, gallery: Any, record: dict[str, Any]) -> None:
    """Write the mined data set beside its place, and put it there when it is whole."""
    from contextcir.data.images import stored_image
    from contextcir.data.negatives import CONFIGS, NEGATIVE_FEATURES, NEGATIVE_IDS, NEGATIVES, mined_features
    from contextcir.data.parquet import write_parquet
    from contextcir.data.source_card import write_derived_card
    from contextcir.data.triplets import embedded_rows
    from contextcir.runtime.locations import locate

    output = Path(args.output)
    folder = output.with_name(f".{output.name}.unfinished")
    shutil.rmtree(folder, ignore_errors=True)

    def negatives() -> Iterator[dict[str, Any]]:
        for id_, place in mined.places.items():
            yield {"id": id_, "image": stored_image(gallery.images[place], f"mined negative {id_!r}")}

    try:
        for split, rows in splits.items():
            ids = mined.negative_ids if split == args.split else [[]] * len(rows)
            added = (row | {NEGATIVE_IDS: some} for row, some in zip(embedded_rows(rows), ids, strict=True))
            write_parquet(added, mined_features(rows.features), folder / "triplets", split)
        write_parquet(negatives(), NEGATIVE_FEATURES, folder / NEGATIVES, "train")
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        write_derived_card(folder, output.resolve().name, note(record), source=locate(args.data), configs=CONFIGS)
        shutil.rmtree(output, ignore_errors=True)
        folder.rename(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_output(output: Path) -> None:
    """Raise a `ValueError` if a folder holds something else than mined triplets, which would be lost."""
    if output.exists() and not (output / RECORD).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(
            f"{output} holds something else than mined triplets, which would be lost. Choose another one."
        )


def describe(
    argv, args: MineArguments, bounds: dict[str, Any], identity, searched: int, found: dict
) -> dict[str, Any]:
    """What was mined, by what, as in `mining.json`."""
    from contextcir.runtime.provenance import provenance

    return {
        "command": shlex.join(["contextcir", "mine", *argv]),
        "data": args.data,
        "split": args.split,
        "gallery": args.gallery,
        "gallery_size": searched,
        "model": asdict(identity),
        "bounds": bounds,
        "found": found,
        **provenance(),
    }


def note(record: dict[str, Any]) -> str:
    """What the card says about the negatives."""
    from contextcir.retrieval.mining import GUARDS

    found, model = record["found"], record["model"]
    source = Path(record["data"]).resolve().name if Path(record["data"]).exists() else record["data"]
    rows = "\n".join(f"| {meaning} | {found['left_out'][reason]:,} |" for reason, meaning in GUARDS.items())
    return (
        f"The triplets of `{source}` with mined negatives: ids in the column `negative_ids` of the configuration"
        " `triplets`, the best-ranked first, and the images that they name in the configuration `negatives`.\n\n"
        f"{found['negatives']:,} negatives of {found['triplets']:,} triplets ({found['triplets_without']:,} have none)"
        f" are {found['images']:,} images. Mined by `{Path(model['model']).name}` (weights `{model['weights']}`) among"
        f" {record['gallery_size']:,} images. Mean rank {found['mean_rank']:.1f}; the target scores"
        f" {found['mean_margin']:.3f} higher in the mean.\n\n"
        f"| an image was left out where it | times |\n|---|---|\n{rows}\n\n"
        "Train with `contextcir train --hard_negatives N`."
    )


def report(record: dict[str, Any]) -> str:
    """What was found, in two lines."""
    found = record["found"]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in found["left_out"].items() if count)
    return (
        f"{found['negatives']:,} negatives of {found['triplets']:,} triplets, {found['images']:,} images;"
        f" {found['triplets_without']:,} triplets have none.\nLeft out: {reasons or 'nothing'}."
    )


if __name__ == "__main__":
    from contextcir.cli.main import script

    script("mine")
