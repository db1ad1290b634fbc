"""Tools of the benches: comparisons, child processes, memory, goals, and results as JSON.

Importing this file imports nothing heavy, because child processes import it too.
"""

import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any


def compare(one: Callable[[], Any], other: Callable[[], Any], repeats: int, device: str) -> tuple[float, float]:
    """
    Measure two functions that take turns.

    Args:
        one (`Callable`): The first function.
        other (`Callable`): The second function.
        repeats (`int`): Number of rounds, after one to warm up.
        device (`str`): With `cpu`, CPU time is measured, otherwise wall time; `wall` is the wall time of a CPU.

    Returns:
        `tuple[float, float]`: The median of each, in seconds.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for function, times in zip((one, other), seconds, strict=True):
            begin = clock()
            function()
            if device not in ("cpu", "wall"):
                import torch

                torch.cuda.synchronize()
            times.append(clock() - begin)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])


class Report:
    """Print a line for each comparison, and collect them in `rows`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        print(f"{'':<64}{'seconds':>9}{'other':>9}{'ratio':>7}  goal")

    def add(self, name: str, ratio: float, goal: str, seconds: Sequence[float] = (), **more: Any) -> None:
        """Add a comparison. `goal` is `<=` or `>=` and a number, or empty. All booleans among `more` must be true as
        well."""
        bound = float(goal.split()[1]) if goal else ratio
        reached = ratio >= bound if goal.startswith(">=") else ratio <= bound
        met = reached and all(value for value in more.values() if isinstance(value, bool))
        self.rows.append({"name": name, "ratio": ratio, "goal": goal, "met": met, "seconds": list(seconds), **more})
        columns = "".join(f"{value:>9.3f}" for value in seconds) or " " * 18
        print(f"{name:<64}{columns}{ratio:>7.2f}  {goal:<7}{'' if met else ' MISSED'}", flush=True)


def goal_row(name: str, value: float, highest: float, **more: Any) -> dict[str, Any]:
    """Return a measured value, its goal (at most `highest`), and whether it is met."""
    return {**more, "name": name, "value": value, "goal": f"<= {highest}", "met": value <= highest}


def print_goals(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each [`goal_row`]."""
    for row in rows:
        name = f"{row['mode']}, {row['name']}" if "mode" in row else row["name"]
        print(f"{name:<72}{row['value']:>9.2f}  {row['goal']:<8}{'' if row['met'] else ' MISSED'}")


def operations(function: Callable[[], Any]) -> int:
    """Count floating-point operations of matrix products, convolutions and attention, in both passes."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def memory_mb(name: str = "VmHWM", pid: int | str = "self") -> float:
    """Return a value of `/proc/PID/status` in MB; by default the peak memory of this process. `ru_maxrss` does not
    work for this, because a child process inherits it."""
    return int(Path(f"/proc/{pid}/status").read_text().split(f"{name}:")[1].split()[0]) / 1024


def peak_memory(device: str) -> float:
    """Return the peak memory of this process on a device, in MB."""
    if device == "cpu":
        return memory_mb()
    import torch

    return torch.cuda.max_memory_allocated() / 2**20


@contextmanager
def child(function: Callable[..., None], *args: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    """
    Run a function in a process of its own, and kill the process at the end of the context.

    Args:
        function (`Callable`): Gets the other end of the connection as its last argument.
        args (`Any`): Its other arguments.

    Yields:
        `tuple[BaseProcess, Connection]`: The process, and the connection to it.
    """
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


def in_child(function: Callable[..., None], *args: Any) -> Any:
    """Return what a function sends over its connection from a process of its own, which has its own peak memory."""
    with child(function, *args) as (_, connection):
        return connection.recv()


def machine_name(device: str) -> str:
    """Return the kind of CPU, or the name of the GPU."""
    if device == "cpu":
        return platform.machine()
    import torch

    return torch.cuda.get_device_name()


def environment(device: str) -> dict[str, str | None]:
    """Return what every result says of where it was measured: the version of torch, the machine and the commit."""
    import torch

    from contextcir.runtime.provenance import code_commit

    return {"torch": torch.__version__, "machine": machine_name(device), "commit": code_commit()}


def write_json(result: Mapping[str, Any], path: str) -> None:
    """Write a result, and create its folder if it does not exist."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
