"""Write what differs between the images of pairs, with any chat model, and make triplets to train on.

    python generate_captions.py --pairs pairs.json --output out --model gpt-4o --max_usd 20
    python generate_captions.py --pairs pairs.json --output out --model gpt-4o --max_usd 20 --dry_run
    python generate_captions.py --pairs pairs.json --output out --model gpt-4o --max_usd 20 --mode batch
    python generate_captions.py --pairs pairs.csv --output out --model own --base_url http://localhost:8000/v1 --free
    python generate_captions.py --recipe instructcir --images photos --num_pairs 32000 --output out --model gpt-4o
    python generate_captions.py --recipe instructcir … --reformulator runs/reformulator  # own adapter, no server
    python train.py --clip_name_or_path openai/clip-vit-base-patch32 --data out/triplets --output_dir runs/mine

The default recipe is good4cir's; the other is InstructCIR's. Pairs are read from JSON, JSON Lines, CSV or a dataset
(`contextcir/pairs.py`), or drawn from a folder of images. The output folder holds `triplets/` (Parquet, for training),
`dataset.json` (good4cir's format), `pairs.jsonl` (all that was seen and written, and what became of every pair),
`report.json`, `figures/`, and the card in `README.md`; `ledger.sqlite` holds every answer, so that nothing is paid for
twice. Ctrl-C ends a run within seconds; the same command goes on where it was, and takes further pairs along.

Exit codes: 0, all pairs are kept, or failed with a reason that is in the report; 1, input that cannot be used, or no
pair was kept; 2, unknown options; 3, the server or the budget ended the run (the message says why; what there is has
been written, and the same command goes on); 130, interrupted.

A pair fails, and the others go on, where an image cannot be read, both are the same image, the pair stood there
before, or an image is one that a benchmark is measured on (`--test_sets`).
"""

import asyncio
import shlex
import sys
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from transformers import HfArgumentParser

from commands.caption_inputs import PairArguments, choose_pairs, find_held_out
from contextcir.captions import Inspector, Prompt, ResultLog, load_prompts
from contextcir.captions.publishing import publish
from contextcir.captions.rehearsal import rehearse
from contextcir.captions.run import Run, caption_pairs
from contextcir.captions.writing import write_card, write_results
from contextcir.chat import ChatServer
from contextcir.dispatch import BatchDispatcher, Dispatcher
from contextcir.downloads import fetch_public
from contextcir.ledger import Ledger
from contextcir.prices import FREE, Price, price_of
from contextcir.provenance import git_commit, versions

CARD_TEMPLATE = Path(__file__).parent / "datasets_scripts" / "cards" / "generated.md"
PAIRS_OF_A_BATCH = 5_000  # in the stages at a time, 25 kB or more each; online, twice as many as requests
STOPPED, INTERRUPTED = 3, 130


@dataclass
class CaptionArguments:
    """How captions are made."""

    recipe: Literal["good4cir", "instructcir"] = field(default="good4cir", metadata={"help": "Stages to go through."})
    prompts: str | None = field(
        default=None, metadata={"help": "Folder with prompts of your own; see contextcir/prompts."}
    )
    max_changes: int | None = field(
        default=None,
        metadata={"help": "Most captions of a pair that are joined in one text (good4cir); default 4, 1 joins none."},
    )
    reformulator: str | None = field(
        default=None,
        metadata={
            "help": "Adapter of datasets_scripts/train_reformulator.py, folder or Hub name, that writes the changes of"
            " instructcir in place of the server's model."
        },
    )
    parser: str | None = field(
        default=None, metadata={"help": "benepar name or path for noun phrases; by default the shipped parser."}
    )

    def __post_init__(self):
        if self.max_changes is not None and self.recipe != "good4cir":
            raise ValueError(f"{self.recipe} writes one change for a pair and joins nothing. Leave out --max_changes.")
        self.max_changes = 4 if self.max_changes is None else self.max_changes
        if self.max_changes < 1:
            raise ValueError(f"max_changes must be at least 1, got {self.max_changes}.")
        if self.reformulator and self.recipe != "instructcir":
            raise ValueError(f"{self.recipe} reformulates nothing. Leave out --reformulator.")


@dataclass
class ServerArguments:
    """Who is asked, how, and what it may cost."""

    model: str = field(metadata={"help": "Model, as the server calls it."})
    base_url: str | None = field(default=None, metadata={"help": "Server; OpenAI's by default."})
    key_file: str | None = field(default=None, metadata={"help": "File with the key; else OPENAI_API_KEY."})
    mode: Literal["online", "batch"] = field(
        default="online", metadata={"help": "Each request by itself, or batches: cheaper, and up to a day for each."}
    )
    concurrency: int = field(default=32, metadata={"help": "Most requests on their way at a time (online)."})
    poll_seconds: float = field(default=30.0, metadata={"help": "Time between two looks at a batch."})
    temperature: float | None = field(default=None, metadata={"help": "Of the answers; the server's by default."})
    max_tokens: int = field(default=2048, metadata={"help": "Of an answer; longer ones are cut and count as failed."})
    timeout: float = field(default=300.0, metadata={"help": "Seconds that one attempt may take."})
    max_usd: float | None = field(default=None, metadata={"help": "What the folder may cost in all, never exceeded."})
    usd_per_million: list[float] | None = field(
        default=None, metadata={"help": "Price of a million tokens of prompts and of answers, if not the table's."}
    )
    free: bool = field(
        default=False, metadata={"help": "Say so where tokens cost nothing, as on a server of one's own."}
    )
    dry_run: bool = field(default=False, metadata={"help": "Print three requests and the likely cost; send nothing."})

    def __post_init__(self):
        if self.usd_per_million and len(self.usd_per_million) != 2:
            raise ValueError(f"usd_per_million has two prices, of prompts and of answers, got {self.usd_per_million}.")

    def build(self) -> ChatServer:
        """The server, with the price of the model."""
        if self.free:
            price = FREE
        elif self.usd_per_million:
            price = Price(*self.usd_per_million)
        else:
            price = price_of(self.model, batch=self.mode == "batch")
        return ChatServer(
            self.model,
            self.base_url,
            price=price,
            key_file=self.key_file,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            timeout=self.timeout,
        )

    def build_dispatcher(self, server: ChatServer, ledger: Ledger) -> tuple[Dispatcher | BatchDispatcher, int]:
        """Who sends the requests, and how many pairs are in the stages at a time."""
        if self.mode == "batch":
            return BatchDispatcher(server, ledger, poll_seconds=self.poll_seconds), PAIRS_OF_A_BATCH
        return Dispatcher(server, ledger, concurrency=self.concurrency), 2 * self.concurrency


@dataclass
class OutputArguments:
    """Where results go."""

    output: str = field(metadata={"help": "Folder of the run."})
    push_to_hub: str | None = field(
        default=None, metadata={"help": "Hub name to publish the triplets under (private)."}
    )
    public: bool = field(default=False, metadata={"help": "Publish for everybody to see."})


def choose_prompts(args: CaptionArguments) -> dict[str, Prompt]:
    """The prompts of the recipe. A reformulator is asked with the one that it was trained with."""
    prompts = load_prompts(args.recipe, args.prompts)
    if args.reformulator is None:
        return prompts
    from contextcir.captions.reformulator import adapter_prompt  # with torch

    prompt = adapter_prompt(args.reformulator)
    if args.prompts and Path(args.prompts, "reformulation.txt").is_file():
        if prompts["reformulation"].text != prompt.text:
            raise ValueError(
                f"{args.reformulator} was trained with another reformulation.txt than that of {args.prompts}."
            )
    return prompts | {"reformulation": prompt}


def load_reformulator(name_or_path: str | None):
    """The adapter and its model, if one is asked for."""
    if name_or_path is None:
        return None
    from contextcir.captions.reformulator import Reformulator

    return Reformulator.load(name_or_path)


def draw_figures(report: dict[str, Any], folder: Path) -> list[str]:
    """Draw a report, where matplotlib is there. Returns the names of the figures."""
    if not find_spec("matplotlib"):
        return []
    from contextcir.visualization.captions import caption_figures
    from contextcir.visualization.page import save_png

    figures = caption_figures(report)
    for title, figure in figures.items():
        save_png(figure, folder / "figures" / f"{title}.png")
    return list(figures)


def main(argv: list[str] | None = None) -> int:
    """Captions, writes and, if asked to, pushes. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    kinds = (PairArguments, CaptionArguments, ServerArguments, OutputArguments)
    parser = HfArgumentParser(kinds, allow_abbrev=False, description=__doc__.split("\n")[0])
    pair_args, caption_args, server_args, output_args = parser.parse_args_into_dataclasses(argv)
    if not (find_spec("spacy") and find_spec("benepar")):  # said before anything is paid for
        raise ImportError("Noun phrases need spaCy and benepar: pip install contextcir[parse]")
    prompts = choose_prompts(caption_args)
    pairs, origin = choose_pairs(pair_args, output_args.output)
    server = server_args.build()
    fetch = fetch_public if pair_args.allow_urls else None
    if server_args.dry_run:
        with TemporaryDirectory() as downloads, closing(Inspector(fetch=fetch, folder=Path(downloads))) as inspector:
            free = ["reformulation"] if caption_args.reformulator else []
            print(asyncio.run(rehearse(pairs, caption_args.recipe, prompts, server, inspector, free_stages=free)))
        return 0

    held_out, sentence = find_held_out(pair_args.test_sets)
    folder = Path(output_args.output)
    words = [word.replace(server.base_url, server.address) for word in argv]  # which may hold a password
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
            "held_out": sentence,
            "parser": caption_args.parser or "the parser that ships with contextcir",
            "command": shlex.join(["generate_captions.py", *words]),
            "commit": git_commit(Path(__file__).parent),
            "versions": versions(),
        },
        reformulator=load_reformulator(caption_args.reformulator),
    )
    return caption(run, server_args, output_args)


def caption(run: Run, server_args: ServerArguments, output_args: OutputArguments) -> int:
    """Asks, writes and publishes. Returns the exit code."""
    folder = run.folder
    with (
        Ledger(folder, run.settings(), server_args.max_usd) as ledger,
        closing(ResultLog(folder / ".results.jsonl", len(run.pairs))) as log,
        closing(run.inspector),
    ):
        dispatcher, in_flight = server_args.build_dispatcher(run.server, ledger)
        reformulation = Dispatcher(run.reformulator, ledger) if run.reformulator else None
        try:
            stopped = asyncio.run(caption_pairs(run, log, dispatcher, reformulation, in_flight=in_flight))
        except KeyboardInterrupt:
            print("Interrupted. The same command goes on where this one was.", file=sys.stderr)
            return INTERRUPTED
        if stopped and all(result.reason for result in log):
            print(f"Stopped: {stopped} Nothing was written.", file=sys.stderr)
            return STOPPED
        report, info = write_results(run, ledger, log, stopped)
        name = output_args.push_to_hub or folder.resolve().name
        write_card(report, info, draw_figures(report, folder), CARD_TEMPLATE, folder, name)
    print(
        f"{report['pairs']['kept']:,} of {report['pairs']['given']:,} pairs kept, {report['captions']['kept']:,}"
        f" captions, {report['triplets']['total']:,} triplets, ${report['requests']['usd']:.2f}. Written: {folder}"
    )
    if stopped:
        print(f"Stopped: {stopped} The same command goes on.", file=sys.stderr)
        return STOPPED
    if not report["pairs"]["kept"]:
        print(f"No pair was kept: {report['failures']}. See {folder / 'pairs.jsonl'}.", file=sys.stderr)
        return 1
    if output_args.push_to_hub:
        publish(folder, output_args.push_to_hub, public=output_args.public)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"generate_captions.py: {error}")
