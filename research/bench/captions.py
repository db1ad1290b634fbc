"""A large run of `contextcir generate` with an unreliable server, which is killed several times.

    python -m research.bench.captions                        # 10,000 pairs, online and in batches
    python -m research.bench.captions --pairs 1000 --modes online
    python -m research.bench.captions --pairs 100 --modes online --kills 8 --output kills.json  # what kills cost

The scenes oracle serves in a process of its own, with a fixed latency, 5 % 429, 2 % 5xx, 1 % refusals and 1 %
malformed answers. Of its batches, one expires and one fails in part. The command is killed (SIGKILL) when the oracle
has answered a quarter, a half and three quarters of the requests of the pairs (with `--kills`, other even shares), and
started again. At the end, the
results are compared with the pairs, the ledger with its content at each kill, and both with the counts of the oracle.

A start has three parts: start-up, until its first new request (imports, and finished pairs read from the ledger);
asking, until all pairs are done; and writing, of noun phrases and triplets. The time of asking is compared with the
ideal: the latency and the waits that the oracle asks for, divided by the concurrency. This needs one core for the
command and a part of another for the oracle, so CPU seconds and load are reported as well. Batches have no ideal time,
and their start-up counts as asking.
"""

import argparse
import json
import os
import platform
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from contextcir.chat.ledger_report import killed_usd
from contextcir.runtime.provenance import code_commit, versions
from contextcir.scenes.oracle import Faults
from contextcir.scenes.truth import Truth
from datasets_scripts import build_scene_pairs
from research.bench.measuring import goal_row, memory_mb, print_goals, write_json
from research.bench.oracles import OracleProcess, oracle_process

ROOT = Path(__file__).parents[2]
STAGES = 3  # requests of a pair without faults
POLL = 0.05  # seconds between two observations of a start
USD_PER_MILLION = (2.5, 10.0)  # of prompts and of answers
CAP_USD_PER_PAIR = 0.1  # a batch reserves the highest cost of a stage of all pairs, about 0.03 for each
FORM = {"refusals": 0.01, "malformed": 0.01}
FAULTS: dict[str, dict[str, Any]] = {
    "online": {"rate_429": 0.05, "retry_after": 0.1, "rate_5xx": 0.02, **FORM},
    "batch": {"expired_batches": 1, "partly_failed_batches": 1, **FORM},
}
QUICK = {"pairs": 40, "concurrency": 8, "latency": 0.1, "batch_seconds": 0.1}


class Start(NamedTuple):
    """Measurements of one start of the command: times in seconds, memory in MB."""

    killed: bool
    start_up: float
    asking: float
    writing: float
    asking_mb: float
    peak_mb: float
    cpu: float


def observe(pid: int) -> tuple[float, bool] | None:
    """Return the peak memory of a process in MB, and whether it writes, for which it first loads pyarrow. Return
    `None` if it has ended."""
    try:
        return memory_mb(pid=pid), "libarrow" in Path(f"/proc/{pid}/maps").read_text()
    except (OSError, IndexError):
        return None


def follow(process: subprocess.Popen[bytes], oracle: OracleProcess, until: float) -> Start:
    """Observe a start until it ends, or kill it when the oracle has given `until` answers."""
    launched, before = time.monotonic(), oracle.state()["received"]
    cpu = _cpu_of_children()
    asked: float | None = None
    writing: float | None = None
    asking_mb = peak_mb = 0.0
    killed = False
    while process.poll() is None:
        now, state, seen = time.monotonic(), oracle.state(), observe(process.pid)
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
    """Return the CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def read_ledger(folder: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Query the ledger of a command, which may have been killed."""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as ledger:
        return ledger.execute(query, values).fetchall()


SETTLED = "select id, sends from requests where state = 'answered' or (state = 'failed' and kind != 'failed')"


def run_until_done(
    oracle: OracleProcess, mode: str, world: Path, folder: Path, args: argparse.Namespace
) -> tuple[list[Start], dict[str, int], int]:
    """
    Start the command, kill it, and start it again.

    Returns:
        `tuple[list[Start], dict[str, int], int]`: The starts; the number of times that each request answered before a
        kill had been sent by then; and the number of requests in flight at a kill.
    """
    argv = [sys.executable, "-m", "contextcir.cli.generate", "--pairs", world / "pairs.json", "--output", folder]
    argv += ["--model", "oracle", "--base_url", oracle.url, "--mode", mode, "--concurrency", args.concurrency]
    argv += ["--usd_per_million", *USD_PER_MILLION, "--max_usd", CAP_USD_PER_PAIR * args.pairs]
    argv += ["--poll_seconds", args.batch_seconds / 5]
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    starts: list[Start] = []
    sends: dict[str, int] = {}
    in_flight, log = 0, folder.with_suffix(".log")
    for share in (*(kill / (args.kills + 1) for kill in range(1, args.kills + 1)), None):
        until = float("inf") if share is None else round(share * STAGES * args.pairs)
        with open(log, "w") as output:
            process = subprocess.Popen(list(map(str, argv)), cwd=ROOT, env=environment, stdout=output, stderr=output)
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
    """Count the pairs by their result; `accounted` are those with exactly one."""
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
    """Count the requests: in the ledger, in the ledger at the kills, and at the oracle."""
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
    """Compute the cost: by the tokens of the oracle, and by the ledger without and with possible charges. Of these,
    `killed` counts requests in flight at a kill, and `killed_at_most` their bounds."""
    charged = sum(
        tokens[kind] * usd / 1e6 for kind, usd in zip(("prompt", "completion"), USD_PER_MILLION, strict=True)
    )
    settled, unsure = read_ledger(folder, "select total(usd), total(lost_usd + reserved_usd) from requests")[0]
    killed = killed_usd(partial(read_ledger, folder))
    return {
        "charged": charged,
        "settled": settled,
        "settled_and_unsure": settled + unsure + killed["usd"],
        "killed": killed["usd"],
        "killed_at_most": killed["most_usd"],
        "cap": cap,
    }


def rows_of(mode: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the measurements that have a goal."""
    pairs, requests, usd, seconds = (found[name] for name in ("pairs", "requests", "usd", "seconds"))
    # A batch continues without the command: its requests in flight are not lost.
    excused = requests["in_flight_at_kills"] if mode == "online" else 0
    figures: list[tuple[str, float, float]] = [
        ("pairs without a known end", pairs["given"] - pairs["accounted"], 0),
        ("requests sent again after their answer", requests["sent_again_once_answered"], 0),
        (
            "answers given twice, except for requests in flight at a kill",
            max(requests["answered_again"] - excused, 0),
            0,
        ),
        ("USD charged / accounted for", round(usd["charged"] / usd["settled_and_unsure"], 9), 1),
        ("USD accounted for / cap", usd["settled_and_unsure"] / usd["cap"], 1),
        ("peak memory while asking, MB", max(start["asking_mb"] for start in found["starts"]), 300),
    ]
    if mode == "online":
        figures.append(("asking / ideal time", seconds["asking"] / seconds["ideal"], 1.1))
    return [goal_row(*figure, mode=mode) for figure in figures]


def faults_of(mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the oracle."""
    delay = {"latency": args.latency} if mode == "online" else {"batch_seconds": args.batch_seconds}
    return FAULTS[mode] | delay


def measure(mode: str, world: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one mode, from the first start to the accounts."""
    faults = Faults(**faults_of(mode, args))
    with oracle_process(partial(Truth.from_folder, world), faults, args.seed) as oracle:
        starts, sends, in_flight = run_until_done(oracle, mode, world, folder, args)
        state = oracle.state()
    waits = state["received"] * faults.latency + state["outcomes"].get("rate_429", 0) * faults.retry_after
    seconds = {part: sum(getattr(start, part) for start in starts) for part in ("start_up", "asking", "writing")}
    seconds["ideal"] = waits / args.concurrency if mode == "online" else None
    return {
        "pairs": account_pairs(world, folder),
        "requests": account_requests(folder, state, sends, in_flight),
        "usd": account_usd(folder, state["tokens"], CAP_USD_PER_PAIR * args.pairs),
        "seconds": seconds,
        "cpu_seconds": {"command": sum(start.cpu for start in starts), "oracle": state["cpu_seconds"]},
        "outcomes": state["outcomes"],
        "batches": state["batches"],
        "starts": [start._asdict() for start in starts],
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure all modes. Returns the result, as written to JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000, help="number of pairs")
    parser.add_argument("--quick", action="store_true", help="40 pairs, 8 concurrent requests, and a short latency")
    parser.add_argument("--modes", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--kills", type=int, default=3, help="number of kills")
    parser.add_argument("--concurrency", type=int, default=32, help="requests at the same time")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds of each answer, online")
    parser.add_argument("--batch_seconds", type=float, default=1.0, help="seconds of each batch")
    parser.add_argument("--seed", type=int, default=0, help="seed of pairs, answers and faults")
    parser.add_argument("--output", default="docs/results/bench_captions.json", help="JSON file of the result")
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(QUICK)
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
        "settings": settings
        | {"faults": {mode: faults_of(mode, args) for mode in modes}, "usd_per_million": USD_PER_MILLION},
        "versions": versions(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": load,
        "rows": [row for mode, found in modes.items() for row in rows_of(mode, found)],
        **modes,
    }
    print_goals(result["rows"])
    write_json(result, args.output)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
