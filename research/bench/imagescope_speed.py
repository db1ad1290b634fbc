"""Speed and memory of ImageScope, compared with the latency of its server, and the cost of a kill.

    python -m research.bench.imagescope_speed                # two minutes, most of it waiting
    python -m research.bench.imagescope_speed --quick        # a few queries, a short latency: a test run

The scenes oracle serves all four roles in a process of its own, with a fixed latency. A search of the scenes benchmark
is killed (SIGKILL) when a quarter of its answers are given, and started again. In the second start, the time of asking
is compared with the ideal: the latency of its requests divided by the concurrency. The time of CLIP is reported too,
and the memory before asking and at the peak. This needs one core for the search and a part of another for the oracle,
so the load of the machine is reported. At the end, the ledger shows whether a request was sent again after its answer.
"""

import argparse
import os
import platform
import shlex
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from contextcir.runtime.provenance import code_commit, versions
from contextcir.scenes.oracle import Faults
from contextcir.scenes.truth import Truth
from research.bench.measuring import child, goal_row, memory_mb, print_goals, write_json
from research.bench.oracles import load_benchmark, oracle_process, truth_of

CALLS = 1 + 1 + 20 + 3  # of a query: descriptions, propositions, verifications, evaluations
KILL_AT = 0.25
GOALS = {
    "asking / ideal time": 1.15,
    "peak memory of the process, MB": 500,
    "memory that asking adds, MB": 500,
    "requests sent again after their answer": 0,
}
QUICK = {"max_queries": 4, "latency": 0.05, "concurrency": 16}


def load_truth(args: argparse.Namespace) -> Truth:
    """Return the truth about the benchmark."""
    return truth_of(*load_benchmark(args.data, args.split, args.max_queries))


def search(args: argparse.Namespace, url: str, folder: str, connection: Connection) -> None:
    """Run one search. Send its times and its memory."""
    import torch

    from contextcir.cli.imagescope import panel_of
    from contextcir.cli.imagescope_arguments import ImageScopeArguments
    from contextcir.cli.loading import load_clip
    from contextcir.cli.servers import ServerArguments
    from contextcir.retrieval.baselines import clip_baselines
    from contextcir.retrieval.imagescope import ImageScope, ReasonedRetriever
    from modeling_contextcir import ContextCIRProcessor

    torch.set_num_threads(1)
    benchmark, _ = load_benchmark(args.data, args.split, args.max_queries)
    scope = ImageScopeArguments(trace=folder, chat_model="oracle", cache=folder)
    servers = ServerArguments(base_url=url, free=True, concurrency=args.concurrency)
    model = load_clip(args.clip, torch.device("cpu"))
    clip = clip_baselines(model, ContextCIRProcessor.from_pretrained(args.clip))["CLIP, text only"]
    with panel_of(scope, servers, "scenes") as panel:
        seconds, before = time_asking(panel), memory_mb("VmRSS")
        retriever = ImageScope(panel, ReasonedRetriever(panel, clip))
        begin = time.perf_counter()
        retriever.search(benchmark.queries, benchmark.gallery, benchmark.k, exclude_reference=True)
        seconds["all"] = time.perf_counter() - begin
    connection.send({"seconds": dict(seconds), "mb": {"before": before, "peak": memory_mb()}})


def time_asking(panel: Any) -> dict[str, float]:
    """Measure the seconds of a panel's requests by phase. They are added to the result during the search."""
    seconds: dict[str, float] = defaultdict(float)
    in_flight = panel.in_flight

    async def timed(jobs: Any, total: int, what: str, limit: int) -> Any:
        begin = time.perf_counter()
        try:
            return await in_flight(jobs, total, what, limit)
        finally:
            seconds[what] += time.perf_counter() - begin

    panel.in_flight = timed
    return seconds


def requests(folder: str) -> dict[str, tuple[str, int]]:
    """Return request id -> its state and the number of times that it was sent, from the ledger of a search."""
    with closing(sqlite3.connect(Path(folder, "answers-0", "ledger.sqlite"))) as ledger:
        return {id_: (state, sends) for id_, state, sends in ledger.execute("select id, state, sends from requests")}


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Measure a search that is killed and started again."""
    benchmark, _ = load_benchmark(args.data, args.split, args.max_queries)
    expected = len(benchmark.gallery) + CALLS * len(benchmark.queries)
    with oracle_process(partial(load_truth, args), Faults(latency=args.latency), args.seed) as oracle:
        with child(search, args, oracle.url, folder) as (process, _):
            while oracle.state()["answered"] < KILL_AT * expected:
                if not process.is_alive():
                    raise RuntimeError("The search ended before it was killed.")
                time.sleep(0.05)
            process.kill()
            process.join()
        time.sleep(2 * args.latency)  # until the requests in flight are answered
        before, given = requests(folder), oracle.state()["answered"]
        with child(search, args, oracle.url, folder) as (_, connection):
            found = connection.recv()
        sent = oracle.state()["answered"] - given
    after = requests(folder)
    done = [id_ for id_, (state, _) in before.items() if state == "answered"]
    return found | {
        "requests": {
            "in all": len(after),
            "answered before the kill": len(done),
            "sent after it": sent,
            "answered before the kill and sent again": sum(after[id_][1] > 1 for id_ in done),
        }
    }


def rows_of(found: dict[str, Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the measurements that have a goal."""
    ideal = found["requests"]["sent after it"] * args.latency / args.concurrency
    asking = sum(seconds for phase, seconds in found["seconds"].items() if phase != "all")
    again = found["requests"]["answered before the kill and sent again"]
    peak, before = found["mb"]["peak"], found["mb"]["before"]
    values = (asking / ideal, peak, peak - before, again)
    return [goal_row(name, value, goal) for (name, goal), value in zip(GOALS.items(), values, strict=True)]


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Measure. Returns the result, as written to JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 queries, 0.05 s of latency, 16 concurrent requests")
    parser.add_argument("--data", default="data/scenes", help="the scenes benchmark")
    parser.add_argument("--split", default="validation", help="its split")
    parser.add_argument("--max-queries", type=int, help="use the first queries only")
    parser.add_argument("--clip", default="checkpoints/scenes-clip-tiny", help="CLIP that retrieves")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds of each answer")
    parser.add_argument("--concurrency", type=int, default=32, help="requests at the same time")
    parser.add_argument("--seed", type=int, default=0, help="seed of the oracle's wording")
    parser.add_argument("--output", default="docs/results/imagescope_speed.json", help="JSON file of the result")
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(QUICK)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, folder)
    result = {
        "command": shlex.join(["python", "-m", "research.bench.imagescope_speed", *argv]),
        "commit": code_commit(),
        **{name: getattr(args, name) for name in ("seed", "split", "max_queries", "latency", "concurrency", "clip")},
        "versions": versions(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": [load_before, os.getloadavg()[0]],
        **found,
        "rows": rows_of(found, args),
    }
    print_goals(result["rows"])
    write_json(result, args.output)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
