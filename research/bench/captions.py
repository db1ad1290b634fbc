"""What becomes of a large run of `generate_captions.py` whose server is unreliable and whose process is killed.

    python -m research.bench.captions                        # 10,000 pairs, online and in batches
    python -m research.bench.captions --pairs 1000 --modes online

The scenes oracle serves in a process of its own, with a fixed latency, 5 % 429, 2 % 5xx, 1 % refusals and 1 %
malformed answers; of its batches, one expires and one fails in part. The command is killed (SIGKILL) when the oracle
has answered a quarter, a half and three quarters of what the pairs need, and started again. At the end its results are
held against the pairs, its ledger against what stood in it at each kill, and both against what the oracle counted.

A start has three parts: *start-up*, until its first new request (imports, and the pairs that are done, out of the
ledger); *asking*, until all pairs are through; and *writing*, when noun phrases are parsed and triplets written. The
time of asking is set against what latency, the waits that the oracle asks for, and concurrency allow. That needs a
core for the command and a part of another for the oracle, so CPU seconds and load stand beside it. Batches have no
ideal time, and their start-up counts as asking.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from contextcir.runtime.provenance import code_commit, versions
from contextcir.scenes.oracle import Faults, Oracle
from contextcir.scenes.truth import Truth
from datasets_scripts import build_scene_pairs

ROOT = Path(__file__).parents[2]
STAGES = 3  # requests of a pair, if all goes well
KILLS_AT = (0.25, 0.5, 0.75)
POLL = 0.05  # seconds between two looks at a start
USD_PER_MILLION = (2.5, 10.0)  # of prompts and of answers
CAP_USD_OF_A_PAIR = 0.1  # a batch sets aside what a stage of all pairs may cost at most, about 0.03 of each
FORM = {"refusals": 0.01, "malformed": 0.01}
FAULTS = {
    "online": {"rate_429": 0.05, "retry_after": 0.1, "rate_5xx": 0.02, **FORM},
    "batch": {"batch_seconds": 1.0, "expired_batches": 1, "partly_failed_batches": 1, **FORM},
}
FLAGS = {"online": [], "batch": ["--poll_seconds", "0.2"]}


# --- the oracle ------------------------------------------------------------------------------------------------------


def serve(truth: str, faults: Faults, seed: int, line) -> None:
    """Run an oracle, and say how it stands whenever that is asked for, until the line is closed."""
    oracle = Oracle(Truth.from_folder(truth), faults=faults, seed=seed)
    with oracle as url:
        idle = time.process_time()
        line.send(url)
        try:
            while line.recv():
                state = {
                    "received": oracle.received.total(),
                    "answered": oracle.num_answered,
                    "answered_again": oracle.num_answered - len(oracle.answered),
                    "outcomes": dict(oracle.outcomes),
                    "tokens": dict(oracle.tokens),
                    "batches": dict(oracle.ends_of_batches),
                    "cpu_seconds": time.process_time() - idle,
                }
                line.send(state)
        except EOFError:
            return


class Line:
    """The other end of an oracle's line."""

    def __init__(self, connection, url: str):
        self._connection, self.url = connection, url

    def state(self) -> dict[str, Any]:
        """What the oracle has counted so far."""
        self._connection.send("state")
        return self._connection.recv()


@contextmanager
def oracle_process(truth: Path, faults: Faults, seed: int) -> Iterator[Line]:
    """An oracle in a process of its own, for as long as the context lasts."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(str(truth), faults, seed, there), daemon=True)
    process.start()
    there.close()
    try:
        with here:
            yield Line(here, here.recv())
    finally:
        process.join(10)
        process.kill()


# --- a start of the command ------------------------------------------------------------------------------------------


class Start(NamedTuple):
    """How one start of the command went; times in seconds, memory in MB."""

    killed: bool
    start_up: float
    asking: float
    writing: float
    asking_mb: float
    peak_mb: float
    cpu: float


def look(pid: int) -> tuple[float, bool] | None:
    """Peak of the memory of a process in MB, and whether it has begun to write, for which it loads pyarrow first;
    `None` where it is over."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        writing = "libarrow" in Path(f"/proc/{pid}/maps").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024, writing  # not `ru_maxrss`: inherited from the parent
    except (OSError, IndexError):
        return None


def follow(process: subprocess.Popen, oracle: Line, until: float) -> Start:
    """Watch a start until it ends, or kill it once the oracle has answered so many requests."""
    launched, before = time.monotonic(), oracle.state()["received"]
    cpu = _cpu_of_children()
    asked = writing = None
    asking_mb = peak_mb = 0.0
    killed = False
    while process.poll() is None:
        now, state, seen = time.monotonic(), oracle.state(), look(process.pid)
        if asked is None and state["received"] > before:
            asked = now
        if seen:
            peak_mb = seen[0]
            if not seen[1]:
                asking_mb = peak_mb
            elif writing is None:
                writing = now
        if state["answered"] >= until:
            process.kill()
            killed = True
            break
        time.sleep(POLL)
    process.wait()
    ended = time.monotonic()
    asked, writing = asked or launched, writing or ended
    times = asked - launched, writing - asked, ended - writing
    return Start(killed, *times, asking_mb, peak_mb, _cpu_of_children() - cpu)


def _cpu_of_children() -> float:
    """Of processes that have ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def read_ledger(folder: Path, query: str) -> list[tuple]:
    """What a ledger holds, also that of a command that was killed."""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as ledger:
        return ledger.execute(query).fetchall()


SETTLED = "select id, sends from requests where state = 'answered' or (state = 'failed' and kind != 'failed')"


def run_until_done(oracle: Line, mode: str, world: Path, folder: Path, args) -> tuple[list[Start], dict, int]:
    """
    Start the command, kill it, start it again.

    Returns:
        `tuple[list[Start], dict[str, int], int]`: The starts; how often requests that were answered when the command
        was killed had been sent by then; and how many were on their way at a kill.
    """
    argv = [sys.executable, "-m", "contextcir.cli.generate", "--pairs", world / "pairs.json", "--output", folder]
    argv += ["--model", "oracle", "--base_url", oracle.url, "--mode", mode, "--concurrency", args.concurrency]
    argv += ["--usd_per_million", *USD_PER_MILLION, "--max_usd", CAP_USD_OF_A_PAIR * args.pairs, *FLAGS[mode]]
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    starts, sends, in_flight, log = [], {}, 0, folder.with_suffix(".log")
    for share in (*KILLS_AT, None):
        until = float("inf") if share is None else round(share * STAGES * args.pairs)
        with open(log, "w") as said:
            process = subprocess.Popen(list(map(str, argv)), cwd=ROOT, env=environment, stdout=said, stderr=said)
            try:
                starts.append(follow(process, oracle, until))
            finally:
                process.kill()
        if starts[-1].killed != (share is not None) or not starts[-1].killed and process.returncode:
            raise RuntimeError(f"The command ended with {process.returncode}: {log.read_text()[-2000:]}")
        if starts[-1].killed:
            sends |= dict(read_ledger(folder, SETTLED))
            in_flight += read_ledger(folder, "select count(*) from requests where state = 'sent'")[0][0]
        print(f"{mode}, start {len(starts)}: {'killed' if share else 'done'} after {sum(starts[-1][1:4]):.0f} s")
    return starts, sends, in_flight


# --- accounts --------------------------------------------------------------------------------------------------------


def account_pairs(world: Path, folder: Path) -> dict[str, Any]:
    """What became of the pairs; `accounted` are those that have one end, and one alone."""
    ends: dict[tuple[str, str], list[str]] = {}
    with open(folder / "pairs.jsonl") as lines:
        for result in map(json.loads, lines):
            ends.setdefault((result["reference_id"], result["target_id"]), []).append(result["reason"])
    pairs = [
        (pair["reference_image"], pair["target_image"]) for pair in json.loads((world / "pairs.json").read_text())
    ]
    accounted = [ends[pair][0] for pair in pairs if len(ends.get(pair, ())) == 1]
    reasons = Counter(reason for reason in accounted if reason and reason != "not_reached")
    refused = sum(count for reason, count in reasons.items() if reason.endswith(": refused"))
    counts = {"done": accounted.count(""), "refused": refused, "failed": reasons.total() - refused}
    return {"given": len(pairs), "accounted": sum(counts.values()), **counts, "reasons": dict(reasons.most_common())}


def account_requests(folder: Path, state: dict[str, Any], sends: dict[str, int], in_flight: int) -> dict[str, int]:
    """What was asked: by the ledger, by what stood in it at the kills, and by the oracle."""
    now = dict(read_ledger(folder, "select id, sends from requests"))
    return {
        "asked": len(now),
        "received": state["received"],
        "answered": state["answered"],
        "answered_again": state["answered_again"],
        "in_flight_at_kills": in_flight,
        "sent_again_once_answered": sum(now[name] > count for name, count in sends.items()),
    }


def account_usd(folder: Path, tokens: dict[str, int], cap: float) -> dict[str, float]:
    """What was spent: by the oracle's count of tokens, and by the ledger, with what may have been charged besides."""
    charged = sum(
        tokens[kind] * usd / 1e6 for kind, usd in zip(("prompt", "completion"), USD_PER_MILLION, strict=True)
    )
    settled, unsure = read_ledger(folder, "select total(usd), total(lost_usd + reserved_usd) from requests")[0]
    return {"charged": charged, "settled": settled, "settled_and_unsure": settled + unsure, "cap": cap}


def rows_of(mode: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures that have a goal."""
    pairs, requests, usd, seconds = (found[name] for name in ("pairs", "requests", "usd", "seconds"))
    # A batch goes on without the command: what is on its way in one is not lost
    excused = requests["in_flight_at_kills"] if mode == "online" else 0
    figures = [
        ("pairs without a known end", pairs["given"] - pairs["accounted"], 0),
        ("requests sent again once they were answered", requests["sent_again_once_answered"], 0),
        ("answers given twice, but for requests in flight at a kill", max(requests["answered_again"] - excused, 0), 0),
        ("USD charged / accounted for", round(usd["charged"] / usd["settled_and_unsure"], 9), 1),
        ("USD accounted for / cap", usd["settled_and_unsure"] / usd["cap"], 1),
        ("MB while asking, the peak", max(start["asking_mb"] for start in found["starts"]), 300),
    ]
    if mode == "online":
        figures.append(("asking / ideal time", seconds["asking"] / seconds["ideal"], 1.1))
    return [
        {"mode": mode, "name": name, "value": value, "goal": f"<= {goal}", "met": value <= goal}
        for name, value, goal in figures
    ]


def measure(mode: str, world: Path, folder: Path, args) -> dict[str, Any]:
    """One mode, from the first start to the accounts."""
    latency = args.latency if mode == "online" else 0.0
    faults = Faults(latency=latency, **FAULTS[mode])
    with oracle_process(world, faults, args.seed) as oracle:
        starts, sends, in_flight = run_until_done(oracle, mode, world, folder, args)
        state = oracle.state()
    waits = state["received"] * faults.latency + state["outcomes"].get("rate_429", 0) * faults.retry_after
    seconds = {part: sum(getattr(start, part) for start in starts) for part in ("start_up", "asking", "writing")}
    seconds["ideal"] = waits / args.concurrency if mode == "online" else None
    return {
        "pairs": account_pairs(world, folder),
        "requests": account_requests(folder, state, sends, in_flight),
        "usd": account_usd(folder, state["tokens"], CAP_USD_OF_A_PAIR * args.pairs),
        "seconds": seconds,
        "cpu_seconds": {"command": sum(start.cpu for start in starts), "oracle": state["cpu_seconds"]},
        "outcomes": state["outcomes"],
        "batches": state["batches"],
        "starts": [start._asdict() for start in starts],
    }


def main(argv=None) -> dict[str, Any]:
    """Measures; returns what is written as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000, help="how many")
    parser.add_argument("--quick", action="store_true", help="40 pairs, 8 at a time, and a short latency")
    parser.add_argument("--modes", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--concurrency", type=int, default=32, help="requests on their way at a time")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds that the oracle takes, online")
    parser.add_argument("--seed", type=int, default=0, help="of pairs, answers and faults")
    parser.add_argument("--output", default="docs/results/bench_captions.json", help="where to write the numbers")
    args = parser.parse_args(argv)
    if args.quick:
        args.pairs, args.concurrency, args.latency = 40, 8, 0.1
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        world = Path(name, "world")
        build_scene_pairs.main(
            ["--output", str(world), "--num_pairs", str(args.pairs), "--image_size", "96", "--seed", str(args.seed)]
        )
        modes = {mode: measure(mode, world, Path(name, mode), args) for mode in args.modes}
    settings = {name: getattr(args, name) for name in ("pairs", "concurrency", "latency")}
    result = {
        "command": f"python -m research.bench.captions{' --quick' * args.quick} --modes {' '.join(args.modes)}",
        "commit": code_commit(),
        "seed": args.seed,
        "settings": settings | {"faults": {mode: FAULTS[mode] for mode in modes}, "usd_per_million": USD_PER_MILLION},
        "versions": versions(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": load,
        "rows": [row for mode, found in modes.items() for row in rows_of(mode, found)],
        **modes,
    }
    for row in result["rows"]:
        print(
            f"{row['mode']:<8}{row['name']:<64}{row['value']:>9.2f}  {row['goal']:<7}{'' if row['met'] else ' MISSED'}"
        )
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(result, indent=2) + "\n")
    return result


if __name__ == "__main__":
    main()
