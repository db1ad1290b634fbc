"""A million triplets, streamed from Parquet files and indexed at random in memory: rate, memory, cost of resuming.

    python -m research.bench.streams            # about 5 minutes, 2 GB of memory, 0.5 GB of disk
    python -m research.bench.streams --rows 4000 --batches 2 --repeats 1    # a test run

The rows show scenes of a small pool, under ids of their own: each image is read and encoded. Rates are those of the
trainer's own loader and collator without a model, which would hide differences; both take turns, each with one loader
process. Of the rows, a tenth is in memory. Memory is that of this process and its loader process over a pass in which
rows are read and shuffled, but not decoded, which takes hours on this scale and holds no more than a batch.
"""

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import InMemoryTable

from contextcir.data.streamed_triplets import mix_streams, stream_triplets
from contextcir.data.triplets import TRIPLET_FEATURES
from contextcir.runtime.provenance import code_commit
from contextcir.scenes.rows import training_triplets
from contextcir.training.streams import StreamLoader
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from contextcir.training.training_data import TripletStream, is_stream
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from research.bench.measuring import machine_name, memory_mb, print_goals, write_json

IMAGE_SIZE = 48  # the least that `contextcir data scenes` draws: the less there is to decode, the more reading counts
ROWS_OF_A_FILE = 10_000
ROWS_OF_A_GROUP = 1000
MOMENTS = (0.1, 0.5, 1.0)  # of a pass, at which memory is measured


def write_triplets(folder: Path, rows: int, pool: int) -> None:
    """Write triplets as Parquet files, which store an image of a file once."""
    drawn = list(training_triplets(pool, 0, IMAGE_SIZE, set()))
    table = datasets.Dataset.from_list(drawn, features=TRIPLET_FEATURES).data.table.combine_chunks()
    draw, size = random.Random(0), min(ROWS_OF_A_FILE, max(1, rows // 4))
    for start in range(0, rows, size):
        numbers = range(start, min(start + size, rows))
        part = table.take(pa.array([draw.randrange(pool) for _ in numbers]))
        for column in ("id", "reference_id", "target_id"):
            ids = pa.array([f"{column}-{number}" for number in numbers])
            part = part.set_column(part.schema.get_field_index(column), part.schema.field(column), ids)
        path = folder / f"train-{start // size:05d}.parquet"
        pq.write_table(part, path, row_group_size=ROWS_OF_A_GROUP, dictionary_pagesize_limit=2**26)


def build_trainer(triplets: Any, args: argparse.Namespace, output: str) -> CIRTrainer:
    """Return a trainer on triplets, whose loader is measured."""
    options: dict[str, Any] = {"shuffle_buffer": args.buffer} if is_stream(triplets) else {}
    return CIRTrainer(
        ContextCIRModel.from_clip_pretrained(args.clip, fusion_num_layers=1),
        CIRTrainingArguments(
            output_dir=output,
            use_cpu=True,
            per_device_train_batch_size=args.batch_size,
            max_steps=1,
            dataloader_num_workers=1,
            dataloader_pin_memory=False,
            report_to="none",
            **options,
        ),
        train_dataset=triplets,
        processing_class=ContextCIRProcessor.from_pretrained(args.clip),
    )


def seconds_of(batches: Iterator[Any], count: int) -> float:
    """Return the time of batches after those that are loaded ahead."""
    for _ in range(3):
        next(batches)
    begin = time.perf_counter()
    for _ in range(count):
        next(batches)
    return time.perf_counter() - begin


def seconds_to_first(loader: StreamLoader) -> float:
    """Return the time until the first batch is there, the start of the loader process included."""
    begin = time.perf_counter()
    next(iter(loader))
    return time.perf_counter() - begin


def memory_of_pass(folder: str, args: argparse.Namespace) -> tuple[list[dict[str, float]], float, dict[str, Any]]:
    """Read a pass without decoding. Returns the memory of both processes at each moment in MB, the rows per second and
    the state of the stream in the middle of the pass."""
    loader = StreamLoader(
        TripletStream(stream_triplets(folder)), len, args.batch_size, shuffle_buffer=args.buffer, num_workers=1
    )
    batches, read, moments, state = iter(loader), 0, [], loader.state_dict()
    begin = time.perf_counter()
    for share in MOMENTS:
        for _ in range(int(share * args.rows) // args.batch_size - read):
            read += 1
            next(batches)
        if share == 0.5:
            state = loader.state_dict()
        (reader,) = multiprocessing.active_children()
        moments.append({"share": share, "main": memory_mb("VmRSS"), "loader": memory_mb("VmRSS", reader.pid or 0)})
    return moments, read * args.batch_size / (time.perf_counter() - begin), state


def rate_of_mixture(folder: str, count: int) -> float:
    """Return the rows per second of two streams that are mixed, without decoding."""
    rows = iter(mix_streams([stream_triplets(folder), stream_triplets(folder)], [1, 1]))
    next(rows)
    begin = time.perf_counter()
    for _ in range(count):
        next(rows)
    return count / (time.perf_counter() - begin)


def measure(folder: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure memory, then the cost of resuming, then the rates."""
    moments, rows_read, state = memory_of_pass(folder, args)
    mixed = rate_of_mixture(folder, min(20_000, args.rows // 4))
    with tempfile.TemporaryDirectory() as output:
        streamed = build_trainer(stream_triplets(folder), args, output)
        starts: dict[str, list[float]] = {"new": [], "resumed": []}
        for _ in range(args.repeats):
            for name, times in starts.items():
                loader = streamed.get_train_dataloader()
                if name == "resumed":
                    loader.load_state_dict({**state, "fixed": loader.fixed})
                times.append(seconds_to_first(loader))
        tenth = sorted(Path(folder).iterdir())[: max(1, args.rows // ROWS_OF_A_FILE // 10)]
        in_memory = datasets.Dataset(InMemoryTable(pa.concat_tables(map(pq.read_table, tenth))))
        others = build_trainer(in_memory, args, output)
        batches = {name: iter(one.get_train_dataloader()) for name, one in (("stream", streamed), ("memory", others))}
        seconds: dict[str, list[float]] = {"stream": [], "memory": []}
        for _ in range(args.repeats + 1):
            for name, times in seconds.items():
                times.append(seconds_of(batches[name], args.batches))
    rates = {name: args.batch_size * args.batches / statistics.median(times[1:]) for name, times in seconds.items()}
    ratios = [memory / stream for stream, memory in zip(seconds["stream"][1:], seconds["memory"][1:], strict=True)]
    totals = [moment["main"] + moment["loader"] for moment in moments]
    resumed, new = (statistics.median(starts[name]) for name in ("resumed", "new"))
    rows = [
        {"name": "rate, streamed / in memory", "value": statistics.median(ratios), "goal": ">= 0.95"},
        {"name": "memory after a pass / after a tenth of it", "value": totals[-1] / totals[0], "goal": "<= 1.1"},
        {"name": "seconds to the first batch, in the middle of a pass - at its start", "value": resumed - new}
        | {"goal": "<= 30"},
    ]
    met = (rows[0]["value"] >= 0.95, rows[1]["value"] <= 1.1, rows[2]["value"] <= 30)
    return {
        "rows": [row | {"met": one} for row, one in zip(rows, met, strict=True)],
        "rates": rates,
        "rows_per_second_undecoded": rows_read,
        "rows_per_second_mixed": mixed,
        "memory": moments,
        "seconds_to_first_batch": {"new": new, "resumed": resumed},
    }


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Measure, print the rows and write them. Returns what is written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pool", type=int, default=1000, help="distinct triplets")
    parser.add_argument("--clip", default="checkpoints/scenes-clip-tiny", help="CLIP model, for its processor")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--buffer", type=int, default=10_000, help="shuffle buffer")
    parser.add_argument("--batches", type=int, default=10, help="batches of a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds to take the median of")
    parser.add_argument("--output", default="docs/results/bench_streams.json")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        write_triplets(Path(folder), args.rows, args.pool)
        found = measure(folder, args)
    print_goals(found["rows"])
    print(", ".join(f"{name}: {rate:,.0f} rows/s" for name, rate in found["rates"].items()))
    result = {
        "command": "python -m research.bench.streams",
        "settings": {name: getattr(args, name) for name in ("rows", "pool", "batch_size", "buffer", "repeats")},
        "image_size": IMAGE_SIZE,
        "cores": os.cpu_count(),
        "machine": machine_name("cpu"),
        "commit": code_commit(),
        **found,
    }
    write_json(result, args.output)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
