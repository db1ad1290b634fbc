"""Embed images once, and keep the embeddings in a folder, to search from then on.

    contextcir index photos --model runs/demo --output my-gallery
    contextcir index user/photos --split test --model user/model --output my-gallery --dtype float16
    accelerate launch --num_processes 4 -m contextcir.cli.index photos --model user/model --output my-gallery

The first word is a folder of images (all sub-folders, no hidden ones), a text file with one path a line, or a data
set: a Hub name, or a folder of Parquet or WebDataset (tar) files. `metadata.csv` or `metadata.jsonl` in a folder of
images, with a column `file_name`, and other columns of a data set, are facts to filter by.

The same command goes on after an interruption, and brings a finished gallery up to date: only images that are new or
have changed are embedded, those that are gone are removed. A bad image is left out and listed; `--strict` stops at it.

Any number of workers may run the same command: by `accelerate launch`, `torchrun`, `srun` or a SLURM array, or started
by hand with `--rank` and `--world_size`. A worker does the shards of one that died. On several hosts with one file
system, run `--step plan` once, then the workers with `--step encode`, then `--step finish`.

    contextcir index photos --model user/model --output my-gallery --index lancedb --uri s3://bucket/my-gallery

The search is exact. With `--index` an index is made beside: smaller in memory, on object storage, or in PostgreSQL. It
is refused if it finds too little of what the exact search finds.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers.hf_argparser import HfArg

from contextcir.cli.engine_options import EXACT, EngineChoice
from contextcir.cli.gallery_options import EncoderChoice
from contextcir.cli.options import CommandParser
from contextcir.cli.running import INCOMPLETE

SHOWN = 5  # bad images that are listed at the end


@dataclass
class SourceArguments:
    """Where the images are, and where the gallery goes."""

    _argument_group_name = "Images"

    images: str = HfArg(help="Folder, text file of paths, or data set.")
    output: str = HfArg(help="Folder of the gallery.")
    split: str | None = HfArg(default=None, help="Split of a data set (default: train).")
    config: str | None = HfArg(default=None, help="Configuration of a data set.")
    revision: str | None = HfArg(default=None, help="Commit of a data set on the Hub.")
    image_column: str | None = HfArg(
        default=None, help="Column of the images of a data set (default: image, or the only one that has some)."
    )
    id_column: str | None = HfArg(
        default=None, help="Column of the ids (default: id or __key__, or else row numbers)."
    )
    streaming: bool = HfArg(
        default=False, help="Read the rows of a data set as they come, without a copy on this disk."
    )

    def source(self) -> Any:
        """The source. Raises a `StoreError` or `ValueError` if there is none."""
        from contextcir.retrieval.store.sources import find_source

        names = ("split", "config", "revision", "image_column", "id_column")
        options = {name: getattr(self, name) for name in names} | {"streaming": self.streaming or None}
        return find_source(self.images, **options)


@dataclass
class BuildArguments:
    """How it is built."""

    _argument_group_name = "Build"

    dtype: Literal["float32", "float16"] = HfArg(default="float32", help="Type of the stored embeddings.")
    shard_size: int = HfArg(default=1024, help="Images of a shard: what a killed worker loses at the most.")
    strict: bool = HfArg(default=False, help="Stop at a bad image instead of leaving it out.")
    step: Literal["all", "plan", "encode", "finish"] = HfArg(default="all", help="One step, for several hosts.")
    rank: int | None = HfArg(default=None, help="Number of this worker, from 0 (default: from the environment).")
    world_size: int | None = HfArg(default=None, help="Number of workers (default: from the environment).")
    lowest_recall: float = HfArg(default=0.95, help="Recall@10 below which an index is refused.")

    def __post_init__(self):
        if (self.rank is None) != (self.world_size is None):
            raise ValueError("Give both --rank and --world_size, or none of them.")


def main(argv: Sequence[str]) -> int:
    """Index images. Returns the exit code: `INCOMPLETE` if some were bad."""
    kinds = (SourceArguments, EncoderChoice, BuildArguments, EngineChoice)
    parser = CommandParser(kinds, "contextcir index", __doc__, ("images",))
    where, choice, args, engine = parser.parse(argv)
    if choice.model is None:
        parser.error("Give --model: a folder of a run, or a name on the Hub.")
    from contextcir.retrieval.base import Gallery
    from contextcir.retrieval.store.build import Worker
    from contextcir.retrieval.store.operations import index_images

    worker = Worker.from_environment() if args.rank is None else Worker(args.rank, args.world_size)
    retriever = choice.retriever()
    outcome = index_images(
        where.source(),
        retriever,
        where.output,
        dtype=args.dtype,
        shard_size=args.shard_size,
        worker=worker,
        step=args.step,
        strict=args.strict,
        quiet=worker.rank > 0,
    )
    if worker.rank > 0:
        return 0
    code = report(outcome, where.output)
    if outcome.manifest is not None and engine.index != EXACT:
        print(engine.build(Gallery.open(where.output, retriever), args.lowest_recall))
    return code


def report(outcome, folder: str) -> int:
    """Print what was done. Returns the exit code."""
    from contextcir.data.folders import left_out_sentence

    if outcome.left_out:
        print(left_out_sentence(outcome.left_out), file=sys.stderr)
    if outcome.manifest is None:
        print(f"{folder} is not whole yet: `--step encode` and `--step finish` are to come.")
        return 0
    manifest, change = outcome.manifest, outcome.change
    if change is not None:
        print(f"New: {len(change.new)}, changed: {len(change.changed)}, removed: {len(change.removed)}.")
    good = manifest.count - len(manifest.bad)
    print(f"{good:,} images in {folder}, {outcome.embedded:,} embedded by this process, {manifest.dim} dimensions.")
    for reason in list(manifest.bad.values())[:SHOWN]:
        print(f"Bad: {reason}", file=sys.stderr)
    if manifest.bad:
        print(f"{len(manifest.bad)} bad images were left out; manifest.json lists them.", file=sys.stderr)
    return INCOMPLETE if manifest.bad else 0


if __name__ == "__main__":
    from contextcir.cli.main import script

    script("index")
