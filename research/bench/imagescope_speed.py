"""How near ImageScope comes to the time that latency and concurrency allow, in how much memory, and what a kill costs.

    python -m research.bench.imagescope_speed                # two minutes, most of it waiting
    python -m research.bench.imagescope_speed --quick        # a few queries, a short latency: does it run?

The scenes oracle serves all four roles in a process of its own, each answer after a fixed latency. A search of the
scenes benchmark is killed (SIGKILL) when a quarter of its answers are given, and started again. Of the second start,
the time of asking is set against what its requests' latency over the concurrency comes to; what CLIP takes stands
beside it, as does the memory that the process had before it asked and at its peak. Both need a core for the search and
a part of another for the oracle: the load of the machine is noted. At the end the ledger says whether anything that
was answered before the kill was sent again.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from contextcir.cli.imagescope import panel_of
from contextcir.cli.imagescope_arguments import ImageScopeArguments
from contextcir.cli.loading import load_clip
from contextcir.cli.servers import ServerArguments
from contextcir.retrieval.baselines import clip_baselines
from contextcir.retrieval.imagescope import ImageScope, Panel, ReasonedRetriever
from contextcir.retrieval.imagescope.cache import weights_id
from contextcir.runtime.provenance import code_commit, versions
from contextcir.scenes.oracle import Faults, Oracle
from modeling_contextcir import ContextCIRProcessor
from research.bench.oracle_search import load, truth_of

CALLS = 1 + 1 + 20 + 3  # of a query: descriptions, propositions, k verifications, alpha evaluations
KILL_AT = 0.25
GOALS = {
    "asking / ideal time": 1.15,
    "MB of the process, the peak": 500,
    "MB of them that asking adds": 500,
    "answered before the kill and sent again": 0,
}


def serve(args, line) -> None:
    """Run an oracle, and say how many answers it has given whenever that is asked for, until the line is closed."""
    truth = truth_of(*load(args.data, args.split, args.max_queries))
    oracle = Oracle(truth, faults=Faults(latency=args.latency), seed=args.seed)
    with oracle as url:
        line.send(url)
        try:
            while line.recv():
                line.send(oracle.num_answered)
        except EOFError:
            return


def search(args, url: str, folder: str, line) -> None:
    """One start of a search; says at the end what it took."""
    torch.set_num_threads(1)
    benchmark, _ = load(args.data, args.split, args.max_queries)
    scope = ImageScopeArguments(trace=folder, chat_model="oracle", cache=folder)
    servers = ServerArguments(base_url=url, free=True, concurrency=args.concurrency)
    model = load_clip(args.clip, torch.device("cpu"))
    clip = clip_baselines(model, ContextCIRProcessor.from_pretrained(args.clip))["CLIP, text only"]
    with panel_of(scope, servers, "scenes") as panel:
        seconds, before = time_asking(panel), memory("VmRSS")
        retriever = ImageScope(panel, ReasonedRetriever(panel, clip, weights_id(model)))
        begin = time.perf_counter()
        retriever.search(benchmark.queries, benchmark.gallery, benchmark.k, exclude_reference=True)
        seconds["all"] = time.perf_counter() - begin
    line.send({"seconds": dict(seconds), "mb": {"before": before, "peak": memory("VmHWM")}})


def time_asking(panel: Panel) -> Counter:
    """The seconds that a panel's questions take, by the phase that they belong to; they are added as they pass."""
    seconds, in_flight = Counter(), panel.in_flight

    async def timed(jobs, total, what, limit):
        begin = time.perf_counter()
        try:
            return await in_flight(jobs, total, what, limit)
        finally:
            seconds[what] += time.perf_counter() - begin

    panel.in_flight = timed
    return seconds


def memory(name: str) -> float:
    """Of this process in MB; not `ru_maxrss`, which a child inherits from its parent."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1024


@contextmanager
def beside(function, *args) -> Iterator[tuple[Any, Any]]:
    """A function in a process of its own, which gets a line as its last argument: the process and the line's end."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=function, args=(*args, there), daemon=True)
    process.start()
    there.close()
    try:
        with here:
            yield process, here
    finally:
        process.join(10)
        process.kill()


def answers(oracle) -> int:
    """How many an oracle has given so far."""
    oracle.send("how many?")
    return oracle.recv()


def requests(folder: str) -> dict[str, tuple[str, int]]:
    """Id -> state and how often it was sent, by the ledger of a search."""
    with closing(sqlite3.connect(Path(folder, "answers-0", "ledger.sqlite"))) as ledger:
        return {id_: (state, sends) for id_, state, sends in ledger.execute("select id, state, sends from requests")}


def measure(args, folder: str) -> dict[str, Any]:
    """A search that is killed, and goes on."""
    benchmark, _ = load(args.data, args.split, args.max_queries)
    expected = len(benchmark.gallery) + CALLS * len(benchmark.queries)
    with beside(serve, args) as (_, oracle):
        url = oracle.recv()
        with beside(search, args, url, folder) as (process, _):
            while answers(oracle) < KILL_AT * expected:
                if not process.is_alive():
                    raise RuntimeError("The search has ended before it was killed.")
                time.sleep(0.05)
            process.kill()
            process.join()
        time.sleep(2 * args.latency)  # what was on its way arrives nowhere
        before, given = requests(folder), answers(oracle)
        with beside(search, args, url, folder) as (process, line):
            found = line.recv()
        sent = answers(oracle) - given
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


def rows_of(found: dict[str, Any], args) -> list[dict[str, Any]]:
    """What was measured, beside its goal."""
    ideal = found["requests"]["sent after it"] * args.latency / args.concurrency
    asking = sum(seconds for phase, seconds in found["seconds"].items() if phase != "all")
    again = found["requests"]["answered before the kill and sent again"]
    peak, before = found["mb"]["peak"], found["mb"]["before"]
    values = dict(zip(GOALS, (asking / ideal, peak, peak - before, again), strict=True))
    return [
        {"name": name, "value": value, "goal": f"<= {GOALS[name]}", "met": value <= GOALS[name]}
        for name, value in values.items()
    ]


def main(argv=None) -> dict[str, Any]:
    """Measures; returns what is written as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 queries, 0.1 s and 16 at a time")
    parser.add_argument("--data", default="data/scenes", help="the scenes benchmark")
    parser.add_argument("--split", default="validation", help="its split")
    parser.add_argument("--max-queries", type=int, help="only so many of its queries, the first")
    parser.add_argument("--clip", default="checkpoints/scenes-clip-tiny", help="CLIP that retrieves")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds that each answer takes")
    parser.add_argument("--concurrency", type=int, default=32, help="requests on their way at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the oracle's wording")
    parser.add_argument("--output", default="docs/results/imagescope_speed.json", help="where to write the numbers")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    if args.quick:
        args.max_queries, args.latency, args.concurrency = 8, 0.1, 16
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
    for row in result["rows"]:
        print(f"{row['name']:<44}{row['value']:>9.2f}  {row['goal']:<8}{'' if row['met'] else ' MISSED'}")
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
