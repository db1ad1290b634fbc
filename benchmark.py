"""Measure a retriever on a benchmark: a table to read, and JSON that says how it came about.

    python benchmark.py --retriever runs/demo --benchmark scenes --data-root data/scenes --split test --baselines \\
        --output runs/demo/metrics.json
    python benchmark.py --retriever runs/mine --benchmark cirr --data-root CIRR --split test1 --submission submissions
    python benchmark.py --clip openai/clip-vit-base-patch32 --baselines --benchmark custom --data-root user/photos
    torchrun --nproc_per_node 2 benchmark.py --retriever user/my-model --benchmark grocery --data-root data/grocery

`--submission` writes the files that the benchmark's own server takes, checked beforehand; where the targets of a split
are not public (cirr test1), that is all there is.

`--baselines` measures beside it what CLIP finds by the reference image only, by the text only, and by their sum and
spherical interpolation. The CLIP is the one that the model was trained from, as its `training.json` says, or `--clip`.
"""

import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from transformers import AutoModel, AutoProcessor, CLIPModel, HfArgumentParser
from transformers.utils import cached_file

from contextcir.benchmarks import cirr, grocery, scenes
from contextcir.benchmarks.base import Benchmark, load_benchmark
from contextcir.retrieval.base import Ranking
from contextcir.retrieval.dense import DenseRetriever
from modeling_contextcir import ContextCIRProcessor

BENCHMARKS = {"cirr": cirr.load, "scenes": scenes.load, "grocery": grocery.load, "custom": load_benchmark}
SUBMISSIONS = {"cirr": cirr.submission}
BASELINES = {
    "CLIP, image only": DenseRetriever.image_only,
    "CLIP, text only": DenseRetriever.text_only,
    "CLIP, image + text": DenseRetriever.image_text_sum,
    "CLIP, slerp": DenseRetriever.slerp,
}
AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class BenchmarkArguments:
    """What to measure, on what, and where to write it."""

    benchmark: str = field(metadata={"help": f"One of {', '.join(BENCHMARKS)} (any data in the published form)."})
    data_root: str = field(metadata={"help": "Folder or Hub name of the benchmark's data."})
    split: str = field(default="test", metadata={"help": "Split of the benchmark."})
    retriever: str | None = field(default=None, metadata={"help": "Model to measure: a run's folder or a Hub name."})
    baselines: bool = field(default=False, metadata={"help": "Whether to measure CLIP's four baselines as well."})
    clip: str | None = field(default=None, metadata={"help": "CLIP of the baselines; by default the model's own."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write."})
    submission: str | None = field(default=None, metadata={"help": "Folder for the files of the benchmark's server."})
    batch_size: int = field(default=64, metadata={"help": "Images or queries at a time, for each process."})
    autocast: Literal["no", "bf16", "fp16"] = field(default="no", metadata={"help": "Precision to encode in."})

    def __post_init__(self):
        if self.benchmark not in BENCHMARKS:
            raise ValueError(f"There is no benchmark {self.benchmark!r}. Choose one of {', '.join(BENCHMARKS)}.")
        if self.retriever is None and not (self.baselines and self.clip):
            raise ValueError("There is nothing to measure: give --retriever, or --baselines and --clip.")
        if self.submission and (self.benchmark not in SUBMISSIONS or not self.retriever):
            raise ValueError(f"A submission needs --retriever and a benchmark of {', '.join(SUBMISSIONS)}.")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints the table, writes and returns the JSON."""
    argv = sys.argv[1:] if argv is None else argv
    (args,) = HfArgumentParser(BenchmarkArguments, allow_abbrev=False).parse_args_into_dataclasses(argv)
    state = PartialState(cpu=not torch.accelerator.is_available())
    clip = (args.clip or find_clip(args.retriever)) if args.baselines else None
    benchmark = BENCHMARKS[args.benchmark](args.data_root, args.split)
    options = {"batch_size": args.batch_size, "autocast": AUTOCAST[args.autocast]}

    if not (benchmark.is_scored or args.submission):
        raise ValueError(f"The targets of {benchmark.protocol_id} are not public: give --submission.")

    results = []
    if args.retriever:
        retriever = DenseRetriever.from_model(*load_model(args.retriever, state.device), **options)
        result, ranking = measure(args.retriever, retriever, benchmark)
        results.append(result)
        if args.submission and state.is_main_process:
            write_submission(args, benchmark, ranking)
    if clip and benchmark.is_scored:
        clip_model = CLIPModel.from_pretrained(clip, dtype=torch.float32).to(state.device)
        processor = ContextCIRProcessor.from_pretrained(clip)
        gallery_embeds = None
        for name, make in BASELINES.items():
            retriever = make(clip_model, processor, **options)
            if gallery_embeds is None:  # the same for all four
                gallery_embeds = retriever.encode_gallery(benchmark.gallery)
            results.append(measure(name, retriever, benchmark, gallery_embeds=gallery_embeds)[0])

    record = {
        "benchmark": benchmark.name,
        "protocol_id": benchmark.protocol_id,
        "num_queries": len(benchmark.queries),
        "gallery_size": len(benchmark.gallery),
        "clip": clip,
        "results": results,
        "arguments": asdict(args),
        "command": shlex.join(["benchmark.py", *argv]),
        "commit": git_commit(),
        "processes": state.num_processes,
        "device": str(state.device),
        "versions": versions(),
    }
    if state.is_main_process:
        if benchmark.is_scored:
            print(format_table(record))
        if args.output:
            Path(args.output).parent.mkdir(parents=True, exist_ok=True)
            Path(args.output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            print(f"Written: {args.output}")
    return record


def measure(name: str, retriever: DenseRetriever, benchmark: Benchmark, **options) -> tuple[dict[str, Any], Ranking]:
    """One retriever on the benchmark: metrics in percent, over all queries and for each tag (none where targets are
    not public), and the time it took; and its ranking."""
    start = time.perf_counter()
    ranking = retriever.search(
        benchmark.queries, benchmark.gallery, benchmark.k, exclude_reference=benchmark.exclude_reference, **options
    )
    result = {
        "retriever": name,
        "metrics": benchmark.evaluate(ranking) if benchmark.is_scored else {},
        "by_tag": benchmark.evaluate_by_tag(ranking) if benchmark.is_scored else {},
        "seconds": round(time.perf_counter() - start, 3),
    }
    return result, ranking


def write_submission(args: BenchmarkArguments, benchmark: Benchmark, ranking: Ranking) -> None:
    """Writes what the benchmark's server takes; nothing where it would be refused."""
    files = SUBMISSIONS[args.benchmark](benchmark, ranking)
    folder = Path(args.submission)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
        print(f"Written: {folder / name}")


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


def format_table(record: dict[str, Any]) -> str:
    """The metrics of every retriever in lines of equal width: a column for each k, under the metric's name."""
    groups: dict[str, list[str]] = {}
    for key in record["results"][0]["metrics"]:
        groups.setdefault(key.partition("@")[0], []).append(key)
    width = max(len(result["retriever"]) for result in record["results"])

    def line(label, cells):
        return label.ljust(width) + "".join("  " + cell for cell in cells)

    def columns(texts):
        return "".join(text.rjust(7) for text in texts)

    names = [f"     {group}".ljust(7 * len(keys)) for group, keys in groups.items()]
    places = [columns("@" + key.partition("@")[2] for key in keys) for keys in groups.values()]
    lines = [line("", names).rstrip(), line("", places)]
    for result in record["results"]:
        cells = [columns(f"{result['metrics'][key]:.2f}" for key in keys) for keys in groups.values()]
        lines.append(line(result["retriever"], cells))
    title = f"{record['num_queries']:,} queries, {record['gallery_size']:,} images, in percent"
    return "\n".join([f"{record['protocol_id']}: {title}", "", *lines, ""])


def git_commit() -> str | None:
    """Of this clone, with `-dirty` where files were changed; `None` outside of one."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Of Python and of the libraries that numbers may depend on."""
    libraries = ("contextcir", "torch", "transformers", "tokenizers", "datasets", "accelerate", "numpy", "pillow")
    found = {"python": platform.python_version()}
    for library in libraries:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue  # contextcir itself, run from a clone without being installed
    return found


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"benchmark.py: {error}")
