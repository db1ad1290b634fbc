"""Measure composed image retrieval: any model on any benchmark, with the protocol's id beside every number.

    python benchmark.py --retriever runs/demo --benchmark scenes --data-root data/scenes --split test --baselines \\
        --output runs/demo/metrics.json
    python benchmark.py --retriever runs/mine --benchmark cirr --data-root CIRR --split test1 --submission submissions
    python benchmark.py --retriever runs/mine --benchmark fashioniq --data-root fashionIQ --protocol union --text plain
    python benchmark.py --retriever runs/mine --benchmark all --data-root benchmarks --output results
    python benchmark.py --retriever imagescope --benchmark circo --data-root CIRCO --trace runs/circo --free \\
        --chat_model Qwen/Qwen2.5-VL-7B-Instruct --base_url http://localhost:8000/v1
    python benchmark.py --clip openai/clip-vit-base-patch32 --baselines --benchmark custom --data-root user/photos
    torchrun --nproc_per_node 2 benchmark.py --retriever user/my-model --benchmark grocery --data-root data/grocery

    python benchmark.py doctor --data-root benchmarks         # what is there, what is missing, where to get it
    python benchmark.py compare before.json after.json        # paired differences with intervals
    python benchmark.py audit --retriever runs/demo --benchmark scenes --data-root data/scenes --output runs/demo/audit

`--data-root` is the benchmark's folder, or a folder that holds one folder for each benchmark under its name;
`--benchmark all` measures those that are found there. Beside `--output` METRICS.json, METRICS.queries.jsonl keeps the
scores and best ids of every query, which `compare` pairs.

`--submission` writes the files that the benchmark's own server takes, checked beforehand; where the targets of a split
are not public (cirr test1, circo test), that is all there is.

`--retriever imagescope` reasons, verifies and evaluates with chat models, see `contextcir/retrieval/imagescope`;
with `--rerank MODEL` it re-ranks what that model finds. Run again, it goes on where it was stopped.

`--baselines` measures beside it what CLIP finds by the reference image only, by the text only, and by their sum,
spherical interpolation and product. The CLIP is the one that the model was trained from, as its `training.json` says,
or `--clip`. What a random ranking scores stands below, in closed form.

Where a benchmark can name mistakes, as scenes can, the mistakes of each retriever stand below by kind, by number of
edits and by split, beside those of a random ranking; and where it knows what noun phrases denote, how much of that the
attention of the model finds. `visualize.py` draws the former.
"""

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import HfArgumentParser

from commands.audit import audit_retriever
from commands.compare import compare_files
from commands.doctor import doctor
from commands.imagescope import IMAGESCOPE, imagescope
from commands.loading import find_clip, load_clip, load_model, load_parts
from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.compare import side_file
from contextcir.benchmarks.doctor import find_root
from contextcir.benchmarks.grounding import format_grounding, measure_grounding
from contextcir.benchmarks.profile import error_profile, format_profiles
from contextcir.benchmarks.registry import BENCHMARKS
from contextcir.benchmarks.results import format_table, query_lines, summarise
from contextcir.chat import ChatStop
from contextcir.distributed import process_state
from contextcir.provenance import git_commit, versions
from contextcir.retrieval.base import Ranking, Retriever
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.imagescope import ImageScope
from contextcir.retrieval.imagescope.args import PAPER_CLIP, ImageScopeArguments
from modeling_contextcir import ContextCIRProcessor

BASELINES = {
    "CLIP, image only": DenseRetriever.image_only,
    "CLIP, text only": DenseRetriever.text_only,
    "CLIP, image + text": DenseRetriever.image_text_sum,
    "CLIP, slerp": DenseRetriever.slerp,
    "CLIP, image x text": DenseRetriever.image_text_product,
}
WITHOUT_REFERENCE = ("CLIP, text only",)
COMMANDS = {"doctor": doctor, "compare": compare_files, "audit": audit_retriever}
AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class BenchmarkArguments:
    """What to measure, on what, and where to write it."""

    benchmark: str = field(metadata={"help": f"One of {', '.join(BENCHMARKS)}, or all that are found on disk."})
    data_root: str = field(metadata={"help": "The benchmark's folder or Hub name, or a folder with one for each."})
    split: str | None = field(default=None, metadata={"help": "Split; by default the benchmark's first."})
    protocol: str | None = field(default=None, metadata={"help": "Protocol; by default the benchmark's first."})
    text: str | None = field(default=None, metadata={"help": "How query texts are made, where there is a choice."})
    retriever: str | None = field(default=None, metadata={"help": "Model to measure: a run's folder or a Hub name."})
    baselines: bool = field(default=False, metadata={"help": "Whether to measure CLIP's baselines as well."})
    clip: str | None = field(default=None, metadata={"help": "CLIP of the baselines; by default the model's own."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write (a folder with --benchmark all)."})
    submission: str | None = field(default=None, metadata={"help": "Folder for the files of the benchmark's server."})
    batch_size: int = field(default=64, metadata={"help": "Images or queries at a time, for each process."})
    autocast: Literal["no", "bf16", "fp16"] = field(default="no", metadata={"help": "Precision to encode in."})

    def __post_init__(self):
        if self.benchmark != "all" and self.benchmark not in BENCHMARKS:
            raise ValueError(f"There is no benchmark {self.benchmark!r}. Choose one of {', '.join(BENCHMARKS)}, all.")
        if self.retriever is None and not (self.baselines and self.clip):
            raise ValueError("There is nothing to measure: give --retriever, or --baselines and --clip.")
        if self.benchmark == "all":
            for name in ("split", "protocol", "text", "submission"):
                if getattr(self, name):
                    raise ValueError(f"--{name} is for one benchmark, not for all.")
            return
        module = BENCHMARKS[self.benchmark]
        if self.submission and not (hasattr(module, "submission") and self.retriever):
            able = [name for name, module in BENCHMARKS.items() if hasattr(module, "submission")]
            raise ValueError(f"A submission needs --retriever and a benchmark of {', '.join(able)}.")
        if self.text and not hasattr(module, "TEXTS"):
            raise ValueError(f"{self.benchmark} has one way to make query texts: leave out --text.")


def main(argv: list[str] | None = None) -> Any:
    """Measures, prints the table, writes and returns the JSON; or what `doctor` and `compare` find."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    parser = HfArgumentParser((BenchmarkArguments, ImageScopeArguments), allow_abbrev=False)
    args, scope_args = parser.parse_args_into_dataclasses(argv)
    if args.retriever == IMAGESCOPE and not scope_args.trace:
        raise ValueError("ImageScope keeps what is paid for: give it a folder with --trace.")
    if args.retriever != IMAGESCOPE and scope_args != ImageScopeArguments():
        raise ValueError(f"ImageScope's options have no effect without --retriever {IMAGESCOPE}.")
    if args.benchmark != "all":
        return run(args, scope_args, args.benchmark, args.output, argv)
    names = [name for name in BENCHMARKS if Path(args.data_root, name).is_dir()]
    if not names:
        raise ValueError(f"{args.data_root} holds no folder called {', '.join(BENCHMARKS)}.")
    outputs = [args.output and str(Path(args.output, f"{name}.json")) for name in names]
    return {name: run(args, scope_args, name, output, argv) for name, output in zip(names, outputs, strict=True)}


def run(
    args: BenchmarkArguments, scope_args: ImageScopeArguments, name: str, output: str | None, argv: Sequence[str]
) -> dict[str, Any]:
    """Everything asked for on one benchmark."""
    state, module, clip = process_state(), BENCHMARKS[name], choose_clip(args, scope_args)
    parts = load_parts(module, args, name)
    if not (is_scored(parts) or args.submission):
        raise ValueError(f"The targets of {parts[0].protocol_id} are not public: give --submission.")
    model = load_model(args.retriever, state.device) if args.retriever not in (None, IMAGESCOPE) else None
    results, lines = [], []
    with closing(retrievers(args, scope_args, model, clip, name, parts, state.device)) as measured:
        for label, retriever in measured:
            start = time.perf_counter()
            rankings = rank_parts(retriever, parts)
            seconds = time.perf_counter() - start
            if label == args.retriever and args.submission and state.is_main_process:
                write_submission(module.submission(parts, rankings), Path(args.submission))
            if is_scored(parts):
                scores = [part.scores(ranking) for part, ranking in zip(parts, rankings, strict=True)]
                result = {**summarise(label, parts, scores), "seconds": round(seconds, 3)}
                results.append(result | beside_scores(retriever, parts, rankings))
                lines += query_lines(label, parts, rankings, scores)

    options = asdict(args) | (asdict(scope_args) if args.retriever == IMAGESCOPE else {})
    record = describe(name, parts, results) | {
        "clip": clip,
        "arguments": options,
        "command": shlex.join(["benchmark.py", *argv]),
        "commit": git_commit(Path(__file__).parent),
        "processes": state.num_processes,
        "device": str(state.device),
        "versions": versions(),
    }
    if state.is_main_process:
        if model and hasattr(module, "load_ground_truth") and hasattr(model[0], "get_concept_attentions"):
            record["grounding"] = ground(module, args, name, model, parts[0])
        if results:
            print(format_table(record))
            print_findings(record)
        if output:
            write(record, lines, Path(output))
    return record


def choose_clip(args: BenchmarkArguments, scope_args: ImageScopeArguments) -> str | None:
    """The CLIP that baselines, and an ImageScope without a model of its own, search with."""
    if args.retriever == IMAGESCOPE and not scope_args.rerank:
        return args.clip or PAPER_CLIP
    if not args.baselines:
        return None
    return args.clip or find_clip(scope_args.rerank if args.retriever == IMAGESCOPE else args.retriever)


def is_scored(parts: Sequence[Benchmark]) -> bool:
    """Whether the targets of all parts are known."""
    return all(part.is_scored for part in parts)


def beside_scores(
    retriever: Retriever, parts: Sequence[Benchmark], rankings: Sequence[Ranking]
) -> dict[str, dict[str, Any]]:
    """The kinds of mistakes, where the benchmark knows them, and what chat models were asked."""
    found = {}
    if parts[0].distractors is not None:
        found["profile"] = error_profile(parts[0], rankings[0])
    if isinstance(retriever, ImageScope):
        found["calls"] = retriever.panel.tally.report()
    return found


def describe(name: str, parts: Sequence[Benchmark], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was measured on what, beside what a random ranking would score."""
    chances = [part.chance() for part in parts if results]
    return {
        "benchmark": name,
        "protocol_id": parts[0].protocol_id,
        "num_queries": sum(len(part.queries) for part in parts),
        "gallery_size": sum({id(part.gallery): len(part.gallery) for part in parts}.values()),
        "results": results,
        "chance": {key: sum(some[key] for some in chances) / len(parts) for key in (chances[0] if chances else ())},
    }


def retrievers(
    args: BenchmarkArguments,
    scope_args: ImageScopeArguments,
    model,
    clip: str | None,
    name: str,
    parts: Sequence[Benchmark],
    device: torch.device,
) -> Iterator[tuple[str, Retriever]]:
    """The model, which comes with its processor, and the baselines that can answer the queries."""
    options = {"batch_size": args.batch_size, "autocast": AUTOCAST[args.autocast]}
    if args.retriever == IMAGESCOPE:
        yield from imagescope(scope_args, clip, name, device, options)
    elif model:
        yield args.retriever, DenseRetriever.from_model(*model, **options)
    if args.baselines and is_scored(parts):
        clip_model = load_clip(clip, device)
        processor = ContextCIRProcessor.from_pretrained(clip)
        with_references = all(query.has_reference for part in parts for query in part.queries)
        gallery_embeds = {}  # the same for all baselines
        for label, make in BASELINES.items():
            if with_references or label in WITHOUT_REFERENCE:
                retriever = make(clip_model, processor, **options)
                retriever.gallery_embeds = gallery_embeds
                yield label, retriever


def rank_parts(retriever: Retriever, parts: Sequence[Benchmark]) -> list[Ranking]:
    """The rankings of all parts; a gallery that several share is encoded once."""
    return [
        retriever.search(
            part.queries, part.gallery, part.k, exclude_reference=part.exclude_reference, wanted=part.wanted
        )
        for part in parts
    ]


def ground(module, args, name: str, model, part: Benchmark) -> dict[str, dict[str, float]]:
    """How much of what noun phrases denote the attention of a model finds."""
    root, split = find_root(args.data_root, name), args.split or module.SPLITS[0]
    truths = module.load_ground_truth(str(root), part, split)
    return measure_grounding(*model, part, truths, batch_size=args.batch_size)


def print_findings(record: dict[str, Any]) -> None:
    """Mistakes by kind and grounding, where they were measured."""
    profiles = {result["retriever"]: result["profile"] for result in record["results"] if "profile" in result}
    if profiles:
        print(format_profiles(profiles))
    if "grounding" in record:
        print(format_grounding(record["arguments"]["retriever"], record["grounding"]))


def write(record: dict[str, Any], lines: Sequence[dict[str, Any]], path: Path) -> None:
    """The record, and the scores of every query beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    side = side_file(path)
    side.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(f"Written: {path} and {side.name}")


def write_submission(files: dict[str, Any], folder: Path) -> None:
    """Writes what the benchmark's server takes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
        print(f"Written: {folder / name}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ChatStop) as error:
        sys.exit(f"benchmark.py: {error}")
