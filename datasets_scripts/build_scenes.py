"""Build the scenes data: training triplets, and a benchmark that neither the texts nor the images alone can solve.

    contextcir data scenes --output data/scenes
    contextcir data scenes --output data/scenes_10k --gallery_size 10000 --num_test 1920
    contextcir data scenes --output data/scenes --push_to_hub my-name/scenes

Triplets have no noun phrases: `contextcir phrases` adds them, as for any other data set. With `--gold_phrases` they
have those of the parse trees that the texts were generated from.

Training triplets come in families of hard negatives. A family is one change applied to one thing after another; or a
reference with complete and partial edits, a near miss of the result, and the way back. All respect the held-out splits
(`contextcir/scenes/splits.py`). Same version, same arguments: same bytes.

The build goes into a hidden folder beside the output, and replaces the output when it is complete.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.runtime.leaving import leave_with
from contextcir.scenes import KINDS, VERSION, compose, count_kinds, fingerprint
from contextcir.scenes.rows import BENCHMARK_CONFIGS, benchmark_rows, bounds, training_triplets, validation_triplets
from datasets_scripts.publishing import finish, write_card


@dataclass
class Arguments:
    """Options of the builder."""

    _argument_group_name = "Data"

    output: str = HfArg(help="Folder for the Parquet files and the card.")
    num_train: int = HfArg(default=40000, help="Training triplets.")
    num_validation: int = HfArg(default=192, help="Validation queries (a small benchmark and triplets).")
    num_test: int = HfArg(default=408, help="Test queries, a multiple of 24; each needs 4 or 5 pictures.")
    gallery_size: int = HfArg(default=2000, help="Pictures in the gallery of the test queries.")
    image_size: int = HfArg(default=96, help="Side of the pictures in pixels.")
    seed: int = HfArg(default=0, help="Seed of scenes, texts and pictures.")
    gold_phrases: bool = HfArg(default=False, help="Add the noun phrases of the generated parse trees.")
    push_to_hub: str | None = HfArg(default=None, help="Hub name to publish under (private).")

    def __post_init__(self):
        if self.num_train < 1:
            raise ValueError(f"num_train must be at least 1, got {self.num_train}.")
        if self.image_size < 48:
            raise ValueError(f"image_size must be at least 48, got {self.image_size}.")


def build(args: Arguments, folder: Path) -> dict[str, Any]:
    """Write everything but the card into an empty folder. Returns the record of the build, as in `scenes.json`."""
    from contextcir.benchmarks.published import FEATURES
    from contextcir.benchmarks.scenes import RECORD, TRUTH_FEATURES
    from contextcir.data.parquet import write_parquet
    from contextcir.data.triplets import TRIPLET_FEATURES, UNPARSED_FEATURES

    triplets = TRIPLET_FEATURES if args.gold_phrases else UNPARSED_FEATURES
    features = {**FEATURES, **TRUTH_FEATURES, "triplets": triplets}
    counts: dict[str, int] = {}

    def write(part: str, config: str, rows: Iterator[dict[str, Any]]) -> None:
        counts[f"{part} {config}"] = write_parquet(rows, features[config], folder / config, part).rows

    validation = compose("validation", args.num_validation, None, args.seed)
    test = compose("test", args.num_test, args.gallery_size, args.seed)
    excluded = set()
    for benchmark in (validation, test):
        for config, rows in benchmark_rows(benchmark, args.image_size).items():
            write(benchmark.part, config, rows)
        excluded |= {hash(picture.scene) for _, picture in benchmark.pictures()}  # 8 bytes each, not whole scenes
    write("validation", "triplets", validation_triplets(validation, args.image_size))
    write("train", "triplets", training_triplets(args.num_train, args.seed, args.image_size, excluded))
    kinds, settings = count_kinds(test.questions), asdict(args)
    record = {
        "version": VERSION,
        "fingerprint": fingerprint(args.seed),
        "arguments": {name: settings[name] for name in settings if name not in ("output", "push_to_hub")},
        "counts": counts,
        "distractors": {kind: round(kinds[kind] / len(test.questions), 2) for kind in KINDS},
        "bounds": bounds(test.questions),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def replace_folder(new: Path, old: Path) -> None:
    """Move a finished folder to its place, where an older one may be."""
    aside = new.with_name(f"{new.name}.old")
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def check_output(output: Path) -> None:
    """Raise a `ValueError` if a folder holds other files than scenes data, which may be replaced."""
    from contextcir.benchmarks.scenes import RECORD

    own = {*BENCHMARK_CONFIGS, "triplets", RECORD, "README.md"}
    if output.exists() and (not output.is_dir() or {path.name for path in output.iterdir()} - own):
        raise ValueError(f"{output} holds other files than scenes data, which would be lost. Choose another output.")


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Build everything into the output folder. Returns the record of the build."""
    (args,) = CommandParser([Arguments], "contextcir data scenes", __doc__).parse(argv)
    output = Path(args.output)
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    building = output.with_name(f".{output.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # of an interrupted build
    building.mkdir()
    record = build(args, building)
    splits = {"triplets": ("train", "validation"), **dict.fromkeys(BENCHMARK_CONFIGS, ("validation", "test"))}
    header = {"license": "apache-2.0", "pretty_name": "Scenes", "tags": ["composed-image-retrieval", "synthetic"]}
    rows = sum(record["counts"].values())
    write_card(building, "scenes.md", splits, header=header, rows=rows, default="triplets", kinds=KINDS, **record)
    replace_folder(building, output)

    for metric, found in record["bounds"].items():
        print(f"{metric}: at most {found['text']:.1f} from the text alone, {found['image']:.1f} from the image alone")
    finish(output, record["counts"], args.push_to_hub)
    return record


if __name__ == "__main__":
    leave_with(lambda: run(main, "contextcir data scenes"))
