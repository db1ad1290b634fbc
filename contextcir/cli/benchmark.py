"""Measure composed image retrieval: any model on any benchmark, with the protocol's id beside every number.

    contextcir benchmark --retriever runs/demo --benchmark scenes --data_root data/scenes --baselines
    contextcir benchmark --retriever runs/mine --benchmark cirr --data_root CIRR --split test1 --submission submissions
    contextcir benchmark --retriever runs/mine --benchmark all --data_root benchmarks --output results
    contextcir benchmark --retriever imagescope --benchmark circo --data_root CIRCO --trace runs/circo --free \\
        --chat_model Qwen/Qwen2.5-VL-7B-Instruct --base_url http://localhost:8000/v1
    torchrun --nproc_per_node 2 -m contextcir.cli.benchmark --retriever user/model --benchmark grocery --data_root data

`--benchmark all` measures those that are found under `--data_root`. Beside `--output METRICS.json`,
`METRICS.queries.jsonl` keeps the scores and best ids of every query, which `contextcir compare` pairs.

`--submission` writes the files that the benchmark's own server takes, checked beforehand. Where the targets of a split
are not public (cirr test1, circo test), there are no other results.

`--baselines` measures CLIP beside the model: the reference image alone, the text alone, their sum, spherical
interpolation and product. The CLIP is the one that the model was trained from, or `--clip`.

`--retriever imagescope` reasons, verifies and evaluates with chat models; with `--rerank MODEL` it re-ranks what that
model finds. The same command goes on where it was stopped. A line for each role says how many questions were answered,
and why others were not. Where more than `--max_failed` of a role's questions failed, table and JSON say that they are
incomplete, and the command exits with 5; failed requests are sent again by the same command.
"""

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from transformers.hf_argparser import HfArg

from contextcir.benchmarks.registry import BENCHMARKS, benchmark_module
from contextcir.cli.benchmark_arguments import ALL, BenchmarkChoice
from contextcir.cli.imagescope_arguments import IMAGESCOPE, PAPER_CLIP, ImageScopeArguments
from contextcir.cli.options import CommandParser
from contextcir.cli.running import UnansweredError
from contextcir.cli.servers import ServerArguments
from contextcir.runtime.secrets import redact_options, redact_words

Scope = tuple[ImageScopeArguments, ServerArguments] | None  # options of ImageScope, if it is measured


@dataclass
class BenchmarkArguments:
    """What is measured, and where the results go."""

    _argument_group_name = "Measurement"

    retriever: str | None = HfArg(default=None, help=f"Model: folder of a run, Hub name, or {IMAGESCOPE}.")
    baselines: bool = HfArg(default=False, help="Measure the baselines of CLIP as well.")
    clip: str | None = HfArg(default=None, help="CLIP of the baselines; by default the model's own.")
    output: str | None = HfArg(default=None, help="JSON file to write (a folder with --benchmark all).")
    submission: str | None = HfArg(default=None, help="Folder for the files of the benchmark's server.")
    missing: Literal["error", "skip"] = HfArg(
        default="error",
        help="Missing images: an error, or skip them and the queries that need one, under a protocol id of its own.",
    )
    batch_size: int = HfArg(default=64, help="Images or queries at a time, for each process.")
    gallery_cache: str | None = HfArg(
        default=None, help="Folder that keeps the embeddings of galleries, for all runs with the same model."
    )
    num_workers: int = HfArg(default=0, help="Processes that read images; 0 means threads.")
    index: Literal["int8", "binary"] | None = HfArg(
        default=None, help="Measure the model with its gallery in one byte or bit a dimension, too."
    )
    autocast: Literal["no", "bf16", "fp16"] = HfArg(default="no", help="Precision to encode in.")
    truncate_dim: int | None = HfArg(
        default=None, help="Numbers of an embedding of the model that are kept; by default all."
    )

    def __post_init__(self):
        if self.retriever is None and not (self.baselines and self.clip):
            raise ValueError("There is nothing to measure: give --retriever, or --baselines and --clip.")


def main(argv: Sequence[str]) -> Any:
    """Measure, print the table, write and return the record; with `--benchmark all` a record for each benchmark."""
    kinds = (BenchmarkChoice, BenchmarkArguments, ImageScopeArguments, ServerArguments)
    choice, args, scope_args, server_args = CommandParser(kinds, "contextcir benchmark", __doc__).parse(argv)
    check(choice, args, scope_args, server_args)
    scope = (scope_args, server_args) if args.retriever == IMAGESCOPE else None
    command = shlex.join(["contextcir", "benchmark", *redact_words(argv)])
    if choice.benchmark != ALL:
        record = run(choice, args, scope, choice.benchmark, args.output, command)
        check_complete({choice.benchmark: record})
        return record
    names = [name for name in BENCHMARKS if Path(choice.data_root, name).is_dir()]
    if not names:
        raise ValueError(f"{choice.data_root} holds no folder called {', '.join(BENCHMARKS)}.")
    outputs = [args.output and str(Path(args.output, f"{name}.json")) for name in names]
    records = {
        name: run(choice, args, scope, name, output, command) for name, output in zip(names, outputs, strict=True)
    }
    check_complete(records)
    return records


def check_complete(records: dict[str, dict[str, Any]]) -> None:
    """Raise an `UnansweredError` if too many questions of ImageScope failed on a benchmark. All is written by then."""
    found = [f"{name}: {record['incomplete']}" for name, record in records.items() if "incomplete" in record]
    if found:
        raise UnansweredError(
            f"The results are incomplete. {' '.join(found)} The same command asks again what failed."
        )


def check(choice: BenchmarkChoice, args: BenchmarkArguments, scope_args, server_args) -> None:
    """Refuse options that have no effect together."""
    if args.index and args.retriever in (None, IMAGESCOPE):
        raise ValueError("--index is for a model: give --retriever.")
    if args.submission and args.missing == "skip":
        raise ValueError("A submission needs all queries and images: leave out --missing skip.")
    if args.retriever == IMAGESCOPE and not scope_args.trace:
        raise ValueError("ImageScope keeps all answers, which are paid for: give it a folder with --trace.")
    if args.retriever != IMAGESCOPE and (scope_args, server_args) != (ImageScopeArguments(), ServerArguments()):
        raise ValueError(f"Options of ImageScope and of chat servers have no effect without --retriever {IMAGESCOPE}.")
    if choice.benchmark == ALL:
        for name in ("split", "protocol", "text"):
            if getattr(choice, name):
                raise ValueError(f"--{name} is for one benchmark, not for all.")
        if args.submission:
            raise ValueError("--submission is for one benchmark, not for all.")
    elif args.submission and not (hasattr(benchmark_module(choice.benchmark), "submission") and args.retriever):
        able = [name for name in BENCHMARKS if hasattr(benchmark_module(name), "submission")]
        raise ValueError(f"A submission needs --retriever and a benchmark of {', '.join(able)}.")


def run(choice: BenchmarkChoice, args: BenchmarkArguments, scope: Scope, name: str, output: str | None, command: str):
    """Measure everything that is asked for on one benchmark. Returns the record as a `dict`."""
    from contextcir.cli.loading import load_model
    from contextcir.evaluation.measure import Record
    from contextcir.runtime.distributed import process_state

    state, clip = process_state(), choose_clip(args, scope)
    record = Record(choice.load(name, args.missing), name)
    if not (record.is_scored or args.submission):
        raise ValueError(f"The targets of {record.facts['protocol_id']} are not public: give --submission.")
    given = [choice, args, *(scope or ())]
    options = redact_options({option: value for some in given for option, value in asdict(some).items()})
    record.facts |= {"clip": clip, "arguments": options, "command": command}
    model = load_model(args.retriever, state.device) if args.retriever and not scope else None
    for label, retriever in retrievers(args, scope, model, clip, record):
        rankings = record.add(label, retriever)
        if label == args.retriever and args.submission and state.is_main_process:
            module: Any = benchmark_module(name)
            write_submission(module.submission(record.parts, rankings), Path(args.submission))
    if state.is_main_process:
        if args.retriever and model:
            record.add_grounding(args.retriever, *model, batch_size=args.batch_size)
        if record.results:
            print(record)
        if output:
            record.save(output)
            print(f"Written: {output} and the scores of every query beside it")
    return record.as_dict()


def choose_clip(args: BenchmarkArguments, scope: Scope) -> str | None:
    """The CLIP that baselines, and an ImageScope without a model of its own, search with."""
    from contextcir.cli.loading import find_clip

    model = scope[0].rerank if scope else args.retriever
    if scope and not model:
        return args.clip or PAPER_CLIP
    if not args.baselines:
        return None
    return args.clip or (find_clip(model) if model else None)


def retrievers(args: BenchmarkArguments, scope: Scope, model, clip: str | None, record) -> Iterator[tuple[str, Any]]:
    """The retriever that is measured, and the baselines that can answer the queries, with their names."""
    import torch

    from contextcir.cli.loading import load_clip_baselines
    from contextcir.retrieval.baselines import WITHOUT_REFERENCE
    from contextcir.retrieval.dense import DenseRetriever
    from contextcir.retrieval.engines.retriever import QuantisedRetriever
    from contextcir.retrieval.store.cache import GalleryCache
    from contextcir.runtime.distributed import process_state

    precisions = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    options: dict[str, Any] = {"batch_size": args.batch_size, "autocast": precisions[args.autocast]}
    options["num_workers"] = args.num_workers
    if args.gallery_cache:
        options["keep"] = GalleryCache(args.gallery_cache)
    device = process_state().device
    if scope:
        from contextcir.cli.imagescope import imagescope

        yield from imagescope(*scope, clip or PAPER_CLIP, device, options, record.facts)
    elif model:
        dense = DenseRetriever.from_model(*model, truncate_dim=args.truncate_dim, **options)
        yield str(args.retriever), dense
        if args.index:
            yield f"{args.retriever}, {args.index}", QuantisedRetriever(dense, args.index)
    if args.baselines and clip and record.is_scored:
        with_references = all(query.has_reference for part in record.parts for query in part.queries)
        left_out = []
        for label, retriever in load_clip_baselines(clip, device, **options).items():
            if with_references or label in WITHOUT_REFERENCE:
                yield label, retriever
            else:
                left_out.append(label)
        record.facts["baselines_left_out"] = left_out
        if left_out:
            print(f"Left out, since some queries have no reference image: {'; '.join(left_out)}.", file=sys.stderr)


def write_submission(files: dict[str, Any], folder: Path) -> None:
    """Write the files that the benchmark's server takes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
        print(f"Written: {folder / name}")


if __name__ == "__main__":
    from contextcir.cli.main import script

    script("benchmark")
