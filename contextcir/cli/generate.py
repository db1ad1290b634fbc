"""Write captions of what differs between the images of pairs, with any chat model, and make triplets to train on.

    contextcir generate --pairs pairs.json --output out --model gpt-4o --max_usd 20
    contextcir generate --pairs pairs.json --output out --model gpt-4o --max_usd 20 --dry_run
    contextcir generate --pairs pairs.json --output out --model gpt-4o --max_usd 20 --mode batch
    contextcir generate --pairs pairs.csv --output out --model own --base_url http://localhost:8000/v1 --free
    contextcir generate --recipe instructcir --images photos --num_pairs 32000 --output out --model gpt-4o
    contextcir train --clip_name_or_path openai/clip-vit-base-patch32 --data out/triplets --output_dir runs/mine

The default recipe is good4cir's; the other is InstructCIR's. Pairs are read from JSON, JSON Lines, CSV or a dataset
(`contextcir/data/pairs.py`), or drawn from a folder of images. The output folder holds `triplets/` (Parquet, for
training), `dataset.json` (good4cir's format), `pairs.jsonl` (what was written of every pair, and whether it was kept),
`report.json`, `figures/`, and the card in `README.md`; `ledger.sqlite` holds every answer, so that none is paid for
twice. Ctrl-C and SIGTERM end a run within seconds; the same command goes on where it was, and takes further pairs
along.

It exits with 0 where pairs were kept, even if others failed (the report has the reasons), with 1 where none was kept,
with 3 where the server or the budget ended the run, and with 5 where more than `--max_failed` of a stage's requests
failed for now, as those of a busy server do: the same command goes on. A line for each stage says how many requests
were answered, and what the server said of most of the others. A run ends early if a stage answers none of its first 20
requests, or fails in nine tenths of the last 50.

A pair fails, and the others go on, where an image cannot be read, both are the same image, the pair is a repetition,
or an image is one that a benchmark is measured on (`--test_sets`).
"""

import asyncio
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from transformers.hf_argparser import HfArg

from contextcir.cli.caption_inputs import PairArguments
from contextcir.cli.imagescope_arguments import check_share
from contextcir.cli.options import CommandParser
from contextcir.cli.running import INTERRUPTED, UNANSWERED
from contextcir.cli.servers import ServerArguments
from contextcir.runtime.secrets import redact_words

CARD_TEMPLATE = "model_cards/generated_data.md"
PAIRS_OF_A_BATCH = 5_000  # in the stages at a time, 25 kB or more each; online, twice as many as requests


@dataclass
class CaptionArguments:
    """How captions are made."""

    _argument_group_name = "Captions"

    model: str = HfArg(help="Chat model, as the server calls it.")
    recipe: Literal["good4cir", "instructcir"] = HfArg(default="good4cir", help="Stages to go through.")
    prompts: str | None = HfArg(default=None, help="Folder with prompts of your own; see contextcir/captions/prompts.")
    max_changes: int | None = HfArg(
        default=None,
        help="Most captions of a pair that are joined in one text (good4cir); 4 by default, 1 joins none.",
    )
    reformulator: str | None = HfArg(
        default=None,
        help="Adapter (`contextcir data reformulator`), folder or Hub name, that writes the changes of "
        "instructcir in place of the server's model.",
    )
    parser: str | None = HfArg(
        default=None, help="benepar name or path for noun phrases; by default the shipped parser."
    )
    mode: Literal["online", "batch"] = HfArg(
        default="online", help="Single requests, or batches: cheaper, and up to a day for each."
    )
    max_failed: float = HfArg(
        default=0.05,
        help="Share of a stage's requests that may fail for now; above it, the run is incomplete (exit 5).",
    )
    poll_seconds: float = HfArg(default=30.0, help="Time between two looks at a batch.")
    batch_requests: int = HfArg(default=50_000, help="Most requests of a batch.")
    dry_run: bool = HfArg(default=False, help="Print three requests and the likely cost; send nothing.")

    def __post_init__(self):
        if self.max_changes is not None and self.recipe != "good4cir":
            raise ValueError(f"{self.recipe} writes one change for a pair and joins nothing. Leave out --max_changes.")
        self.max_changes = 4 if self.max_changes is None else self.max_changes
        if self.max_changes < 1:
            raise ValueError(f"max_changes must be at least 1, got {self.max_changes}.")
        check_share(self.max_failed)
        if self.reformulator and self.recipe != "instructcir":
            raise ValueError(f"{self.recipe} reformulates nothing. Leave out --reformulator.")


@dataclass
class OutputArguments:
    """Where results go."""

    _argument_group_name = "Output"

    output: str = HfArg(help="Folder of the run.")
    push_to_hub: str | None = HfArg(default=None, help="Hub name to publish the triplets under (private).")
    public: bool = HfArg(default=False, help="Publish for everybody to see.")


def main(argv: Sequence[str]) -> int:
    """Caption, write and, if asked to, push. Returns the exit code."""
    kinds = (PairArguments, CaptionArguments, OutputArguments, ServerArguments)
    pair_args, caption_args, output_args, server_args = CommandParser(kinds, "contextcir generate", __doc__).parse(
        argv
    )
    if not (find_spec("spacy") and find_spec("benepar")):  # said before anything is paid for
        raise ImportError("Noun phrases need spaCy and benepar: pip install contextcir[parse]")
    from contextcir.captions.inspection import Inspector
    from contextcir.captions.rehearsal import rehearse
    from contextcir.captions.run import Run
    from contextcir.cli.caption_inputs import choose_pairs, find_held_out
    from contextcir.data.downloads import fetch_public
    from contextcir.runtime.provenance import provenance

    prompts = choose_prompts(caption_args)
    pairs, origin = choose_pairs(pair_args, output_args.output)
    server = server_args.build(caption_args.model, batch=caption_args.mode == "batch")
    fetch = fetch_public if pair_args.allow_urls else None
    if caption_args.dry_run:
        with TemporaryDirectory() as downloads, closing(Inspector(fetch=fetch, folder=Path(downloads))) as inspector:
            free = ["reformulation"] if caption_args.reformulator else []
            print(asyncio.run(rehearse(pairs, caption_args.recipe, prompts, server, inspector, free_stages=free)))
        return 0

    held_out, sentence = find_held_out(pair_args.test_sets)
    reformulator = None
    if caption_args.reformulator:
        from contextcir.captions.reformulator import Reformulator  # imports torch

        reformulator = Reformulator.load(caption_args.reformulator)
    folder = Path(output_args.output)
    run = Run(
        pairs=pairs,
        recipe=caption_args.recipe,
        prompts=prompts,
        max_changes=caption_args.max_changes,
        parser=caption_args.parser,
        server=server,
        inspector=Inspector(held_out, fetch, folder / "images"),
        folder=folder,
        facts={
            "origin": origin,
            "source": source_of(pair_args),
            "held_out": sentence,
            "command": shlex.join(["contextcir", "generate", *redact_words(argv)]),
            **provenance(),
        },
        reformulator=reformulator,
    )
    return caption(run, caption_args, server_args, output_args)


def source_of(args: PairArguments) -> str | None:
    """The data set that the images are from, whose card is carried on: that of the pairs, or the folder of images."""
    name = args.images or args.pairs
    return None if name is None or Path(name).is_file() else name


def choose_prompts(args: CaptionArguments) -> dict[str, Any]:
    """The prompts of the recipe. A reformulator is asked with the one that it was trained with."""
    from contextcir.captions.recipes import load_prompts

    prompts = load_prompts(args.recipe, args.prompts)
    if args.reformulator is None:
        return prompts
    from contextcir.captions.reformulator import adapter_prompt

    prompt = adapter_prompt(args.reformulator)
    if args.prompts and Path(args.prompts, "reformulation.txt").is_file():
        if prompts["reformulation"].text != prompt.text:
            raise ValueError(
                f"{args.reformulator} was trained with another reformulation.txt than that of {args.prompts}."
            )
    return prompts | {"reformulation": prompt}


def caption(run, caption_args: CaptionArguments, server_args: ServerArguments, output_args: OutputArguments) -> int:
    """Ask, write and publish. Returns the exit code."""
    from contextcir.captions.pipeline import ResultLog
    from contextcir.captions.run import caption_pairs
    from contextcir.captions.writing import publish, write_card, write_results
    from contextcir.chat.dispatch import BaseDispatcher, Dispatcher
    from contextcir.chat.dispatch_batch import BatchDispatcher
    from contextcir.chat.draining import run_in_new_loop
    from contextcir.chat.ledger import TEMPORARY, Ledger
    from contextcir.chat.tally import Tally
    from contextcir.runtime.locations import shipped

    folder, tally = run.folder, Tally()
    with (
        Ledger(folder, run.settings(), server_args.max_usd) as ledger,
        closing(ResultLog(folder / ".results.jsonl", len(run.pairs))) as log,
        closing(run.inspector),
    ):
        dispatcher: BaseDispatcher
        if caption_args.mode == "batch":
            poll, most = caption_args.poll_seconds, caption_args.batch_requests
            dispatcher = BatchDispatcher(run.server, ledger, poll_seconds=poll, batch_requests=most)
            in_flight = PAIRS_OF_A_BATCH
        else:
            dispatcher = Dispatcher(run.server, ledger, concurrency=server_args.concurrency)
            in_flight = 2 * server_args.concurrency
        reformulation = Dispatcher(run.reformulator, ledger) if run.reformulator else None
        work = caption_pairs(run, log, dispatcher, reformulation, in_flight=in_flight, tally=tally)
        try:
            stopped = run_in_new_loop(work)
        except KeyboardInterrupt as stop:
            print("Interrupted. The same command goes on where this one was.", file=sys.stderr)
            return getattr(stop, "exit_code", INTERRUPTED)
        print(*tally.lines(), sep="\n", file=sys.stderr)
        if stopped and all(result.reason for result in log):
            print(f"Stopped: {stopped} Nothing was written.", file=sys.stderr)
            return stopped.exit_code
        incomplete = str(stopped or tally.too_many(caption_args.max_failed, {TEMPORARY}))
        report, info = write_results(run, ledger, log, incomplete)
        name = output_args.push_to_hub or folder.resolve().name
        write_card(report, info, draw_figures(report, folder), shipped(CARD_TEMPLATE), folder, name)
    print(
        f"{report['pairs']['kept']:,} of {report['pairs']['given']:,} pairs kept, {report['captions']['kept']:,}"
        f" captions, {report['triplets']['total']:,} triplets, ${report['requests']['usd']:.2f}. Written: {folder}"
    )
    if stopped:
        print(f"Stopped: {stopped} The same command goes on.", file=sys.stderr)
        return stopped.exit_code
    if for_now := report["pairs"]["for_now"]:
        print(
            f"{for_now:,} pairs failed for now: the same command asks again, and may bring {for_now:,} more.",
            file=sys.stderr,
        )
    if incomplete:
        print(f"Incomplete: {incomplete}", file=sys.stderr)
        return UNANSWERED
    if not report["pairs"]["kept"]:
        print(f"No pair was kept: {report['failures']}. See {folder / 'pairs.jsonl'}.", file=sys.stderr)
        return 1
    if output_args.push_to_hub:
        publish(folder, output_args.push_to_hub, public=output_args.public)
    return 0


def draw_figures(report: dict[str, Any], folder: Path) -> list[str]:
    """Draw a report, where matplotlib is installed. Returns the names of the figures."""
    if not find_spec("matplotlib"):
        return []
    from contextcir.visualization.captions import caption_figures
    from contextcir.visualization.page import save_png

    figures = caption_figures(report)
    for title, figure in figures.items():
        save_png(figure, folder / "figures" / f"{title}.png")
    return list(figures)


if __name__ == "__main__":
    from contextcir.cli.main import script

    script("generate")
