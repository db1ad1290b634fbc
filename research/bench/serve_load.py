"""Many people search a served gallery at the same time: answers in a second, their times, and the server's memory.

    contextcir index data/scenes/gallery --split test --model runs/demo --output runs/scenes-gallery
    python -m research.bench.serve_load runs/scenes-gallery                    # 200 clients for 60 seconds
    python -m research.bench.serve_load runs/scenes-gallery --clients 20 --seconds 10

`contextcir serve` runs in a process of its own. Each client searches without a pause: mostly with an image of the
gallery and a text, sometimes with an upload or with a text alone, and looks at a picture that it found. A client that
is answered 429 waits for as long as the answer says, as the page does. Clients and server share the cores.

Counted are searches: those that were answered, their times (without those that were refused), and the share of 429.
Memory is that of the server, and of the processes that decode its uploads.
"""

import argparse
import asyncio
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from contextcir.runtime.provenance import code_commit, versions
from research.bench.measuring import goal_row, memory_mb, print_goals, write_json

TEXTS = (
    "make the red circle blue",
    "remove the star",
    "add a large green square in the middle",
    "at night",
    "swap the two objects on the left and give the cross a dotted pattern",
)
UPLOADS, TEXT_ONLY = 0.15, 0.15  # shares of the searches; the others begin with an image of the gallery
WARM = 0.25  # share of the time after which memory should no longer grow


@dataclass
class Counts:
    """What clients have seen: the seconds of answered searches, statuses, and the kinds of other errors."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    pictures: Counter = field(default_factory=Counter)
    errors: Counter = field(default_factory=Counter)


@contextmanager
def served(gallery: str, options: Sequence[str], log: Path) -> Iterator[tuple[str, int]]:
    """Serve a gallery in a process of its own. Yields the address and the process id."""
    argv = [sys.executable, "-m", "contextcir.cli.main", "serve", gallery, "--port", "0", *options]
    with open(log, "w") as errors:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            found = next((match for line in process.stdout if (match := re.match(r"http://\S+/", line))), None)
            if found is None:
                raise RuntimeError(f"The server did not start: {log.read_text()[-2000:]}")
            yield found[0], process.pid
        finally:
            process.terminate()
            if process.wait(15):
                raise RuntimeError(f"The server ended with {process.returncode}: {log.read_text()[-2000:]}")


def children_of(pid: int) -> list[int]:
    """The child processes of a process."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


async def watch_memory(pid: int, interval: float, begin: float) -> list[dict[str, float]]:
    """Read the memory of a server and of its children until cancelled."""
    readings: list[dict[str, float]] = []
    try:
        while True:
            decoders = sum(memory_mb("VmRSS", child) for child in children_of(pid))
            now = round(time.monotonic() - begin, 1)
            readings.append({"second": now, "server_mb": memory_mb("VmRSS", pid), "decoders_mb": decoders})
            await asyncio.sleep(interval)
    except asyncio.CancelledError:
        return readings


def next_search(rng: random.Random, ids: Sequence[str], picture: bytes) -> dict[str, Any]:
    """One search of one client, as arguments of a request."""
    form: dict[str, Any] = {"text": rng.choice(TEXTS), "k": rng.choice((10, 20, 50))}
    kind = rng.random()
    if kind < UPLOADS:
        return {"data": form, "files": {"upload": ("picture.jpg", picture)}}
    return {"data": form if kind < UPLOADS + TEXT_ONLY else form | {"reference": rng.choice(ids)}}


async def search_on(url: str, number: int, ids: Sequence[str], picture: bytes, end: float, counts: Counts) -> None:
    """One client: search, look at a result, and again, until the time is over. It has a connection of its own: a pool
    of 200 would take more time than the server."""
    rng = random.Random(number)
    async with httpx.AsyncClient(base_url=url, timeout=60, verify=False, trust_env=False) as client:
        while time.monotonic() < end:
            begin = time.monotonic()
            try:
                answer = await client.post("search", **next_search(rng, ids, picture))
                counts.statuses[answer.status_code] += 1
                if answer.status_code == 429:
                    await asyncio.sleep(int(answer.headers["Retry-After"]) * rng.uniform(0.8, 1.2))
                elif answer.status_code == 200:
                    counts.seconds.append(time.monotonic() - begin)
                    shown = rng.choice(answer.json()["results"])["id"]
                    image = await client.get("images/" + quote(shown, safe=""))
                    counts.pictures[image.status_code] += 1
                else:
                    counts.errors[f"{answer.status_code}: {answer.text[:200]}"] += 1
            except httpx.HTTPError as error:
                counts.errors[type(error).__name__] += 1


async def measure(url: str, pid: int, args: argparse.Namespace) -> tuple[Counts, list[dict[str, float]], float]:
    """Let all clients search. Returns what they saw, the memory over time, and the seconds that it took."""
    counts = Counts()
    with httpx.Client(base_url=url, timeout=60) as client:
        examples = [client.get("info", params={"seed": seed}).json()["examples"] for seed in range(20)]
        ids = [one["id"] for some in examples for one in some]
        picture = client.get("images/" + quote(ids[0], safe=""), params={"size": 1024}).content
        client.post("search", data={"text": TEXTS[0]})  # the first one is slow
    begin = time.monotonic()
    memory = asyncio.create_task(watch_memory(pid, args.interval, begin))
    end = begin + args.seconds
    await asyncio.gather(*(search_on(url, number, ids, picture, end, counts) for number in range(args.clients)))
    took = time.monotonic() - begin
    memory.cancel()
    return counts, await memory, took


def growth(memory: Sequence[dict[str, float]], seconds: float) -> float:
    """Memory at the end relative to that after the warm-up: medians of the last quarter and of the one after it."""
    after, last = (
        [one["server_mb"] for one in memory if low * seconds <= one["second"] <= high * seconds]
        for low, high in ((WARM, 2 * WARM), (1 - WARM, 1))
    )
    return statistics.median(last) / statistics.median(after)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the result, as written to JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gallery", help="folder of a stored gallery")
    parser.add_argument("--clients", type=int, default=200, help="clients that search at the same time")
    parser.add_argument("--seconds", type=float, default=60, help="for how long")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two readings of the memory")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model")
    parser.add_argument("--queue", type=int, default=64, help="queue of the server")
    parser.add_argument("--batch", type=int, default=16, help="most searches of a forward pass")
    parser.add_argument("--output", default="docs/results/bench_serve.json", help="JSON file of the result")
    args = parser.parse_args(argv)
    load = os.getloadavg()[0]
    options = [f"--{name}={getattr(args, name)}" for name in ("threads", "queue", "batch")]
    log = Path(args.output).with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with served(args.gallery, options, log) as (url, pid):
        images = httpx.get(f"{url}info").json()["count"]
        counts, memory, took = asyncio.run(measure(url, pid, args))
    log.unlink()
    asked, ordered = counts.statuses.total() + counts.errors.total(), sorted(counts.seconds)
    result = {
        "command": f"python -m research.bench.serve_load GALLERY --clients {args.clients} --seconds {args.seconds:g}",
        "commit": code_commit(),
        "settings": {name: getattr(args, name) for name in ("clients", "seconds", "threads", "queue", "batch")},
        "images": images,
        "versions": versions(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": load,
        "searches": {"asked": asked, "answered": len(ordered), "refused": counts.statuses[429]},
        "searches_per_second": len(ordered) / took,
        "requests_per_second": (asked + counts.pictures.total()) / took,
        "p50_ms": 1000 * statistics.median(ordered),
        "p95_ms": 1000 * ordered[int(0.95 * len(ordered))],
        "share_429": counts.statuses[429] / asked,
        "errors": dict(counts.errors),
        "memory": memory,
        "rows": [
            goal_row(
                "errors other than 429", counts.errors.total() + counts.pictures.total() - counts.pictures[200], 0
            ),
            goal_row("memory at the end / after the warm-up", growth(memory, took), 1.05),
        ],
    }
    print(
        f"{result['searches_per_second']:.0f} searches/s ({result['requests_per_second']:.0f} requests/s), p50"
        f" {result['p50_ms']:.0f} ms, p95 {result['p95_ms']:.0f} ms, {result['share_429']:.1%} refused,"
        f" {max(one['server_mb'] for one in memory):.0f} MB"
    )
    print_goals(result["rows"])
    write_json(result, args.output)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
