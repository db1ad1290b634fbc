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

import asyncio
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from transformers import AutoModel, AutoProcessor, CLIPModel, HfArgumentParser
from transformers.utils import cached_file

from contextcir.benchmarks import (
    circo,
    cirr,
    fashioniq,
    folder,
    genecis,
    grocery,
    imagenet_r,
    karpathy,
    lasco,
    published,
    scenes,
    visdial,
)
from contextcir.benchmarks.audit import audit
from contextcir.benchmarks.audit_page import audit_page
from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.compare import compare, format_comparison, side_file
from contextcir.benchmarks.doctor import examine, find_root, format_findings
from contextcir.benchmarks.grounding import format_grounding, measure_grounding
from contextcir.benchmarks.profile import error_profile, format_profiles
from contextcir.benchmarks.results import format_table, query_lines, summarise
from contextcir.chat import ChatServer, ChatStop
from contextcir.dispatch import Dispatcher
from contextcir.ledger import Ledger
from contextcir.prices import FREE, price_of
from contextcir.provenance import git_commit, versions
from contextcir.retrieval.base import Ranking, Retriever
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.imagescope import ImageScope, Panel, ReasonedRetriever, Role, Roles
from contextcir.retrieval.imagescope.args import PAPER_CLIP, PAPER_MODELS, ImageScopeArguments
from contextcir.retrieval.imagescope.cache import weights_id
from modeling_baselines import CompositionBaseline  # noqa: F401 - known to AutoModel by its import, as the next
from modeling_contextcir import ContextCIRProcessor
from modeling_instructcir import InstructCIRModel  # noqa: F401

BENCHMARKS = {
    "cirr": cirr,
    "circo": circo,
    "fashioniq": fashioniq,
    "genecis": genecis,
    "imagenet_r": imagenet_r,
    "visdial": visdial,
    "flickr30k": karpathy.FLICKR30K,
    "coco": karpathy.COCO,
    "lasco": lasco,
    "grocery": grocery,
    "scenes": scenes,
    "folder": folder,
    "custom": published,
}
BASELINES = {
    "CLIP, image only": DenseRetriever.image_only,
    "CLIP, text only": DenseRetriever.text_only,
    "CLIP, image + text": DenseRetriever.image_text_sum,
    "CLIP, slerp": DenseRetriever.slerp,
    "CLIP, image x text": DenseRetriever.image_text_product,
}
WITHOUT_REFERENCE = ("CLIP, text only",)
IMAGESCOPE = "imagescope"
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
    state = PartialState(cpu=not torch.accelerator.is_available())
    ranked_by = scope_args.rerank if args.retriever == IMAGESCOPE else args.retriever
    if args.retriever == IMAGESCOPE and not ranked_by:
        clip = args.clip or PAPER_CLIP
    else:
        clip = (args.clip or find_clip(ranked_by)) if args.baselines else None
    module = BENCHMARKS[name]
    parts = load_parts(module, args, name)
    scored = all(part.is_scored for part in parts)
    if not (scored or args.submission):
        raise ValueError(f"The targets of {parts[0].protocol_id} are not public: give --submission.")

    results, lines = [], []
    model = load_model(args.retriever, state.device) if args.retriever not in (None, IMAGESCOPE) else None
    with closing(retrievers(args, scope_args, model, clip, name, parts, state.device)) as measured:
        for label, retriever in measured:
            start = time.perf_counter()
            rankings = rank_parts(retriever, parts)
            seconds = time.perf_counter() - start
            if label == args.retriever and args.submission and state.is_main_process:
                write_submission(module.submission(parts, rankings), Path(args.submission))
            if scored:
                scores = [part.scores(ranking) for part, ranking in zip(parts, rankings, strict=True)]
                results.append({**summarise(label, parts, scores), "seconds": round(seconds, 3)})
                if parts[0].distractors is not None:
                    results[-1]["profile"] = error_profile(parts[0], rankings[0])
                if isinstance(retriever, ImageScope):
                    results[-1]["calls"] = retriever.panel.tally.report()
                lines += query_lines(label, parts, rankings, scores)

    chances = [part.chance() for part in parts if scored]
    record = {
        "benchmark": name,
        "protocol_id": parts[0].protocol_id,
        "num_queries": sum(len(part.queries) for part in parts),
        "gallery_size": sum({id(part.gallery): len(part.gallery) for part in parts}.values()),
        "clip": clip,
        "results": results,
        "chance": {key: sum(some[key] for some in chances) / len(parts) for key in (chances[0] if scored else ())},
        "arguments": asdict(args) | (asdict(scope_args) if args.retriever == IMAGESCOPE else {}),
        "command": shlex.join(["benchmark.py", *argv]),
        "commit": git_commit(Path(__file__).parent),
        "processes": state.num_processes,
        "device": str(state.device),
        "versions": versions(),
    }
    if state.is_main_process:
        if model and hasattr(module, "load_ground_truth") and hasattr(model[0], "get_concept_attentions"):
            record["grounding"] = ground(module, args, name, model, parts[0])
        if scored:
            print(format_table(record))
            print_findings(record)
        if output:
            write(record, lines, Path(output))
    return record


def load_parts(module, args, name: str | None = None) -> list[Benchmark]:
    """The benchmark that arguments ask for."""
    choices = {key: getattr(args, key) for key in ("protocol", "text") if getattr(args, key)}
    root = find_root(args.data_root, name or args.benchmark)
    return module.load(str(root), args.split or module.SPLITS[0], **choices)


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
    if args.baselines and all(part.is_scored for part in parts):
        clip_model = load_clip(clip, device)
        processor = ContextCIRProcessor.from_pretrained(clip)
        with_references = all(query.has_reference for part in parts for query in part.queries)
        gallery_embeds = {}  # the same for all baselines
        for name, make in BASELINES.items():
            if with_references or name in WITHOUT_REFERENCE:
                retriever = make(clip_model, processor, **options)
                retriever.gallery_embeds = gallery_embeds
                yield name, retriever


def imagescope(
    args: ImageScopeArguments, clip: str, benchmark: str, device: torch.device, options: dict[str, Any]
) -> Iterator[tuple[str, Retriever]]:
    """ImageScope, and before it what its earlier stages find, if they are to be measured."""
    with seated(args, benchmark) as panel:
        if args.rerank:
            first = DenseRetriever.from_model(*load_model(args.rerank, device), **options)
        else:
            clip_model = load_clip(clip, device)
            dense = DenseRetriever.text_only(clip_model, ContextCIRProcessor.from_pretrained(clip), **options)
            first = ReasonedRetriever(panel, dense, f"{weights_id(clip_model)}-{options['autocast']}", tau=args.tau)
        if args.after_each_stage:
            yield f"{IMAGESCOPE}, retrieved", first
            yield f"{IMAGESCOPE}, verified", ImageScope(panel, first, verified=args.verified, evaluated=0)
        yield IMAGESCOPE, ImageScope(panel, first, verified=args.verified, evaluated=args.evaluated)


@contextmanager
def seated(args: ImageScopeArguments, benchmark: str) -> Iterator[Panel]:
    """The four roles at their servers, whose answers may still arrive at the end. Each process pays its share."""
    state, loop, dispatchers = PartialState(), asyncio.new_event_loop(), {}
    folder = Path(args.trace, f"answers-{state.process_index}")
    # With another number of processes, nobody would count what the ledgers of the others have spent.
    settings = {"answers": IMAGESCOPE, "processes": state.num_processes}
    with Ledger(folder, settings, args.max_usd and args.max_usd / state.num_processes) as ledger:
        roles = {}
        for role in PAPER_MODELS:
            model, url = args.server_of(role)
            if (model, url) not in dispatchers:
                price = FREE if args.free else price_of(model)
                server = ChatServer(model, url, price=price, temperature=args.temperature)
                dispatchers[model, url] = Dispatcher(server, ledger, concurrency=args.concurrency)
            # What tells its answers apart in traces and caches
            name = model if args.temperature is None else f"{model}, temperature {args.temperature}"
            roles[role] = Role(name, dispatchers[model, url].ask)
        options = {"cache": Path(args.cache).expanduser(), "benchmark": benchmark, "waiting": 20 * args.concurrency}
        try:
            yield Panel(Roles(**roles), args.trace, loop=loop, **options)
        finally:
            for dispatcher in dispatchers.values():
                loop.run_until_complete(dispatcher.close())
                loop.run_until_complete(dispatcher.server.close())
            loop.close()


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


@dataclass
class DoctorArguments:
    """Where to look."""

    data_root: str = field(metadata={"help": "Folder that holds one folder for each benchmark, under its name."})


def doctor(argv: list[str]) -> list:
    """Says for every benchmark what is there."""
    (args,) = HfArgumentParser(DoctorArguments, prog="benchmark.py doctor").parse_args_into_dataclasses(argv)
    named = {name: module for name, module in BENCHMARKS.items() if name != "custom"}
    findings = examine(named, args.data_root)
    print(format_findings(findings, named))
    return findings


@dataclass
class CompareArguments:
    """Two result files, and which retriever of each."""

    before: str = field(metadata={"help": "JSON file of benchmark.py."})
    after: str = field(metadata={"help": "Another one, on the same protocol."})
    retriever_before: str | None = field(default=None, metadata={"help": "By default the first of the file."})
    retriever_after: str | None = field(default=None, metadata={"help": "By default the first of the file."})


def compare_files(argv: list[str]) -> dict[str, Any]:
    """Prints the paired differences of two result files."""
    if len(argv) >= 2 and not any(word.startswith("-") for word in argv[:2]):
        argv = ["--before", argv[0], "--after", argv[1], *argv[2:]]
    (args,) = HfArgumentParser(CompareArguments, prog="benchmark.py compare").parse_args_into_dataclasses(argv)
    comparison = compare(args.before, args.after, args.retriever_before, args.retriever_after)
    print(format_comparison(comparison))
    return comparison


@dataclass
class AuditArguments:
    """What to audit, on what."""

    retriever: str = field(metadata={"help": "Model to audit: a run's folder or a Hub name."})
    benchmark: str = field(metadata={"help": f"One of {', '.join(BENCHMARKS)}."})
    data_root: str = field(metadata={"help": "The benchmark's folder or Hub name, or a folder with one for each."})
    output: str = field(metadata={"help": "Folder for audit.json, the plots and index.html."})
    split: str | None = field(default=None, metadata={"help": "Split; by default the benchmark's first."})
    protocol: str | None = field(default=None, metadata={"help": "Protocol; by default the benchmark's first."})
    text: str | None = field(default=None, metadata={"help": "How query texts are made, where there is a choice."})
    clip: str | None = field(default=None, metadata={"help": "CLIP of the probes; by default the model's own."})
    max_queries: int = field(default=500, metadata={"help": "Queries of each part, evenly spaced."})
    batch_size: int = field(default=64, metadata={"help": "Images or queries at a time."})

    def __post_init__(self):
        if self.benchmark not in BENCHMARKS:
            raise ValueError(f"There is no benchmark {self.benchmark!r}. Choose one of {', '.join(BENCHMARKS)}.")


def audit_retriever(argv: list[str]) -> dict[str, Any]:
    """Audits a model: JSON, plots and a page to browse failures."""
    from contextcir.noun_phrases import NounPhraseExtractor  # spaCy and matplotlib are optional, and slow to import
    from contextcir.visualization import audit_figures, save_png

    (args,) = HfArgumentParser(AuditArguments, prog="benchmark.py audit").parse_args_into_dataclasses(argv)
    device, module = PartialState(cpu=not torch.accelerator.is_available()).device, BENCHMARKS[args.benchmark]
    parts = load_parts(module, args)
    clip = args.clip or find_clip(args.retriever)
    clip_model = load_clip(clip, device)
    processor = ContextCIRProcessor.from_pretrained(clip)
    image_only, text_only = (
        make(clip_model, processor, batch_size=args.batch_size)
        for make in (DenseRetriever.image_only, DenseRetriever.text_only)
    )
    text_only.gallery_embeds = image_only.gallery_embeds
    texts = list({query.modification_text for part in parts for query in part.queries})
    found = NounPhraseExtractor().extract(texts)
    spans = [[(phrase["start"], phrase["end"]) for phrase in phrases] for phrases in found]

    halves = {
        (part.gallery, query.id): pair
        for part in parts
        for query, *pair in zip(
            part.queries, *(probe.encode(part.queries, part.gallery) for probe in (image_only, text_only)), strict=True
        )
    }

    def similarity(query, gallery):
        return tuple((image_only.gallery_embeds[gallery] @ half).cpu().numpy() for half in halves[gallery, query.id])

    result = audit(
        parts,
        DenseRetriever.from_model(*load_model(args.retriever, device), batch_size=args.batch_size),
        image_only,
        text_only,
        similarity,
        dict(zip(texts, spans, strict=True)),
        max_queries=args.max_queries,
    )
    record = {
        "retriever": args.retriever,
        "clip": clip,
        **result.findings,
        "command": shlex.join(["benchmark.py", "audit", *argv]),
        "commit": git_commit(Path(__file__).parent),
        "versions": versions(),
    }
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name, figure in audit_figures(result.findings).items():
        save_png(figure, folder / f"{name}.png")
    (folder / "index.html").write_text(audit_page(result, parts, args.retriever), encoding="utf-8")
    print(json.dumps(result.findings, indent=2))
    print(f"Written: {folder}/audit.json, plots, and index.html to browse the failures")
    return record


COMMANDS = {"doctor": doctor, "compare": compare_files, "audit": audit_retriever}


def load_clip(name: str, device: torch.device) -> CLIPModel:
    """A whole CLIP in float32: tensors that are missing would be random, and give a table all the same."""
    clip, info = CLIPModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    broken = [key for key, tensor in clip.state_dict().items() if not torch.isfinite(tensor).all()]
    if bad := sorted(info["missing_keys"]) + broken:
        raise ValueError(f"The CLIP in {name!r} lacks {bad[0]}, or it is not finite ({len(bad)} such). Is it a CLIP?")
    return clip.to(device)


def load_model(name: str, device: torch.device):
    """A model that embeds queries, in float32 on the device, and its processor."""
    model = AutoModel.from_pretrained(name, dtype=torch.float32).to(device)
    if not hasattr(model, "get_query_features"):
        raise ValueError(
            f"{name} is a {type(model).__name__}, which has no get_query_features. To measure a CLIP model, give"
            f" --baselines --clip {name}."
        )
    return model, AutoProcessor.from_pretrained(name)


def find_clip(name: str) -> str:
    """The CLIP at the root of a model: what it was trained from, and what that was, as far as `training.json` says."""
    seen = [name]
    while path := cached_file(
        seen[-1], "training.json", _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_gated_repo=False
    ):
        base = json.loads(Path(path).read_text(encoding="utf-8")).get("model", {}).get("base_model")
        if not base or base in seen:
            break
        seen.append(base)
    if len(seen) == 1:
        raise ValueError(f"{name} has no training.json that says which CLIP it was trained from. Give --clip.")
    return seen[-1]


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ChatStop) as error:
        sys.exit(f"benchmark.py: {error}")
