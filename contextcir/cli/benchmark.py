"""Measure composed image retrieval: any model on any benchmark, with the protocol's id beside every number.

    contextcir benchmark --retriever runs/demo --benchmark scenes --data_root data/scenes --baselines
    contextcir benchmark --retriever runs/mine --benchmark cirr --data_root CIRR --split test1 --submission submissions
    contextcir benchmark --retriever runs/mine --benchmark all --data_root benchmarks --output results
    contextcir benchmark --retriever hf:google/siglip-base-patch16-224 --compose sum --benchmark cirr --data_root CIRR
    contextcir benchmark --retriever my_package:Model --benchmark cirr --data_root CIRR --export_run runs/mine.trec
    contextcir benchmark --retriever imagescope --benchmark circo --data_root CIRCO --trace runs/circo --free \\
        --chat_model Qwen/Qwen2.5-VL-7B-Instruct --base_url http://localhost:8000/v1
    torchrun --nproc_per_node 2 -m contextcir.cli.benchmark --retriever user/model --benchmark grocery --data_root data

`--benchmark all` measures those that are found under `--data_root`. Beside `--output METRICS.json`,
`METRICS.queries.jsonl` keeps the scores and best ids of every query, which `contextcir compare` pairs.

`--submission` writes the files that the benchmark's own server takes, checked beforehand. Where the targets of a split
are not public (cirr test1, circo test), there are no other results.

`--baselines` measures CLIP beside the model: the reference image alone, the text alone, their sum, spherical
interpolation and product. The CLIP is the one that the model was trained from, or `--clip`.

`--retriever` is a model of this library, or one of others: `st:NAME` of sentence-transformers, `hf:NAME` of
transformers, `file.py` or `module:name` with two functions of your own. Models that embed images and texts by
themselves need `--compose`. `basic`, `pic2word` and `cirevl` are zero-shot methods that search with `--clip`.

`--export_run RUN.trec` writes the ranking in TREC's format, and the targets beside it, `RUN.qrels`.

`--retriever imagescope` reasons, verifies and evaluates with chat models; with `--rerank MODEL` it re-ranks what that
model finds. The same command goes on where it was stopped.
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
from contextcir.cli.retriever_arguments import CIREVL, ZERO_SHOT, RetrieverArguments, kind_of
from contextcir.cli.servers import ServerArguments

Scope = tuple[ImageScopeArguments, ServerArguments] | None  # options of what asks chat models, if it is measured
CHAT = (IMAGESCOPE, CIREVL)  # ask chat models


@dataclass
class BenchmarkArguments:
    """What is measured, and where the results go."""

    _argument_group_name = "Measurement"

    retriever: str | None = HfArg(
        default=None,
        help=f"Model: folder of a run, Hub name, st:NAME, hf:NAME, file.py, module:name, basic, pic2word, {CIREVL}"
        f" or {IMAGESCOPE}.",
    )
    baselines: bool = HfArg(default=False, help="Measure the baselines of CLIP as well.")
    clip: str | None = HfArg(
        default=None, help="CLIP of baselines (by default the model's own) and of zero-shot methods."
    )
    output: str | None = HfArg(default=None, help="JSON file to write (a folder with --benchmark all).")
    submission: str | None = HfArg(default=None, help="Folder for the files of the benchmark's server.")
    export_run: str | None = HfArg(
        default=None, help="File for the ranking in TREC's format; the targets go beside it, as .qrels."
    )
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

    def __post_init__(self):
        if self.retriever is None and not (self.baselines and self.clip):
            raise ValueError("There is nothing to measure: give --retriever, or --baselines and --clip.")


def main(argv: Sequence[str]) -> Any:
    """Measure, print the table, write and return the record; with `--benchmark all` a record for each benchmark."""
    kinds = (BenchmarkChoice, BenchmarkArguments, RetrieverArguments, ImageScopeArguments, ServerArguments)
    choice, args, how, scope_args, server_args = CommandParser(kinds, "contextcir benchmark", __doc__).parse(argv)
    check(choice, args, scope_args, server_args)
    how.check(args.retriever, args.clip)
    scope = (scope_args, server_args) if args.retriever in CHAT else None
    command = shlex.join(["contextcir", "benchmark", *argv])
    if choice.benchmark != ALL:
        return run(choice, args, how, scope, choice.benchmark, args.output, command)
    names = [name for name in BENCHMARKS if Path(choice.data_root, name).is_dir()]
    if not names:
        raise ValueError(f"{choice.data_root} holds no folder called {', '.join(BENCHMARKS)}.")
    outputs = [args.output and str(Path(args.output, f"{name}.json")) for name in names]
    return {
        name: run(choice, args, how, scope, name, output, command) for name, output in zip(names, outputs, strict=True)
    }


def check(choice: BenchmarkChoice, args: BenchmarkArguments, scope_args, server_args) -> None:
    """Refuse options that have no effect together."""
    if args.index and args.retriever in (None, *CHAT):
        raise ValueError("--index is for a model: give --retriever.")
    if args.export_run and not args.retriever:
        raise ValueError("--export_run writes the ranking of one model: give --retriever.")
    uses_clip = args.baselines or args.retriever in (*ZERO_SHOT, *CHAT)
    if args.clip and not uses_clip:
        raise ValueError(f"--clip has no effect with --retriever {args.retriever} and without --baselines.")
    if args.submission and args.missing == "skip":
        raise ValueError("A submission needs all queries and images: leave out --missing skip.")
    if args.retriever in CHAT and not scope_args.trace:
        raise ValueError("All answers of chat models are kept, since they are paid for: give a folder with --trace.")
    if args.retriever not in CHAT and (scope_args, server_args) != (ImageScopeArguments(), ServerArguments()):
        raise ValueError(f"Options of chat models have no effect without --retriever {' or '.join(CHAT)}.")
    if args.retriever == CIREVL:
        check_cirevl(scope_args)
    if choice.benchmark == ALL:
        for name in ("split", "protocol", "text"):
            if getattr(choice, name):
                raise ValueError(f"--{name} is for one benchmark, not for all.")
        for name in ("submission", "export_run"):
            if getattr(args, name):
                raise ValueError(f"--{name} is for one benchmark, not for all.")
    elif args.submission and not (hasattr(benchmark_module(choice.benchmark), "submission") and args.retriever):
        able = [name for name in BENCHMARKS if hasattr(benchmark_module(name), "submission")]
        raise ValueError(f"A submission needs --retriever and a benchmark of {', '.join(able)}.")


def check_cirevl(args: ImageScopeArguments) -> None:
    """Refuse options of ImageScope's later stages. The models have no defaults: the paper's are not the same kinds."""
    own = {"trace", "cache", "chat_model", "captioner", "captioner_url", "reasoner", "reasoner_url"}
    given, default = asdict(args), asdict(ImageScopeArguments())
    if idle := [name for name in given if name not in own and given[name] != default[name]]:
        raise ValueError(f"--{idle[0]} has no effect with --retriever {CIREVL}.")
    if not (args.chat_model or (args.captioner and args.reasoner)):
        raise ValueError(f"--retriever {CIREVL} asks two models: give --captioner and --reasoner, or --chat_model.")


def run(
    choice: BenchmarkChoice,
    args: BenchmarkArguments,
    how: RetrieverArguments,
    scope: Scope,
    name: str,
    output: str | None,
    command: str,
):
    """Measure everything that is asked for on one benchmark. Returns the record as a `dict`."""
    from contextcir.evaluation.measure import Record
    from contextcir.evaluation.trec import write_run
    from contextcir.runtime.distributed import process_state

    state, clip = process_state(), choose_clip(args, scope)
    record = Record(choice.load(name, args.missing), name)
    if not (record.is_scored or args.submission or args.export_run):
        raise ValueError(f"The targets of {record.facts['protocol_id']} are not public: give --submission.")
    given = [choice, args, how, *(scope or ())]
    options = {option: value for some in given for option, value in asdict(some).items()}
    record.facts |= {"clip": clip, "arguments": options, "command": command}
    measured = None
    for place, entry in enumerate(retrievers(args, how, scope, clip, record)):
        rankings = record.add(entry.label, entry.retriever)
        if record.results:
            record.results[-1]["model"] = entry.describe()
        if args.retriever and (entry.label == args.retriever if scope else place == 0):
            measured = entry
            if args.submission and state.is_main_process:
                module: Any = benchmark_module(name)
                write_submission(module.submission(record.parts, rankings), Path(args.submission))
            if args.export_run and state.is_main_process:
                for file in write_run(args.export_run, record.parts, rankings, entry.label):
                    print(f"Written: {file}")
    if state.is_main_process:
        if measured and measured.own:
            record.add_grounding(measured.label, *measured.own, batch_size=args.batch_size)
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
    if args.clip or not args.baselines:
        return args.clip
    if model and kind_of(model) not in ("own", "st"):
        raise ValueError(f"--baselines with --retriever {model} need --clip: it has no CLIP of its own.")
    return find_clip(model.removeprefix("st:")) if model else None


def retrievers(
    args: BenchmarkArguments, how: RetrieverArguments, scope: Scope, clip: str | None, record
) -> Iterator[Any]:
    """The retriever that is measured, and the baselines that can answer the queries: an
    [`~contextcir.cli.retrievers.Entry`] each."""
    import torch

    from contextcir.cli.loading import load_clip_baselines
    from contextcir.cli.retrievers import Entry, build
    from contextcir.retrieval.baselines import BASELINES, WITHOUT_REFERENCE
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
        from contextcir.cli.imagescope import cirevl, imagescope

        method = cirevl if args.retriever == CIREVL else imagescope
        for label, retriever in method(*scope, clip or PAPER_CLIP, record.facts["benchmark"], device, options):
            yield Entry(label, retriever, {"spec": args.retriever, "clip": scope[0].rerank or clip})
    elif args.retriever:
        entry = build(args.retriever, how, clip, device, dict(options))
        yield entry
        if args.index:
            if not isinstance(entry.retriever, DenseRetriever) or how.compose == "product":
                raise ValueError(f"--index needs one embedding for each query, which {entry.label} does not give.")
            quantised = QuantisedRetriever(entry.retriever, args.index)
            yield Entry(f"{entry.label}, {args.index}", quantised, {**entry.describe(), "index": args.index})
    if args.baselines and clip and record.is_scored:
        with_references = all(query.has_reference for part in record.parts for query in part.queries)
        left_out = []
        for label, retriever in load_clip_baselines(clip, device, **options).items():
            if with_references or label in WITHOUT_REFERENCE:
                yield Entry(label, retriever, {"spec": clip, "composition": BASELINES[label]})
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
