"""How two variants of the same work are compared, and the table of what came out."""

import multiprocessing
import statistics
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode


def compare(one, other, repeats: int, device: str) -> tuple[float, float]:
    """Median seconds of two functions that take turns: CPU seconds on the CPU, else wall seconds."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = {one: [], other: []}
    for _ in range(repeats + 1):
        for function in seconds:
            begin = clock()
            function()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds[function].append(clock() - begin)
    return tuple(statistics.median(times[1:]) for times in seconds.values())


class Report:
    """Prints a line for each comparison and keeps it for the JSON."""

    def __init__(self):
        self.rows = []
        print(f"{'':<64}{'seconds':>9}{'other':>9}{'ratio':>7}  goal")

    def add(self, name: str, ratio: float, goal: str, seconds=(), **more):
        """`goal` is `<=` or `>=` and a number; all of `more` that are bool must be true, too."""
        bound = float(goal.split()[1])
        met = (ratio <= bound if goal.startswith("<=") else ratio >= bound) and all(
            value for value in more.values() if isinstance(value, bool)
        )
        self.rows.append({"name": name, "ratio": ratio, "goal": goal, "met": met, "seconds": seconds, **more})
        columns = "".join(f"{value:>9.3f}" for value in seconds) or " " * 18
        print(f"{name:<64}{columns}{ratio:>7.2f}  {goal:<7}{'' if met else ' MISSED'}", flush=True)


def operations(function) -> int:
    """Floating-point operations of matrix products, convolutions and attention, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def peak_of_memory(device: str) -> float:
    """Of this process so far, in MB."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not `ru_maxrss`, which a child inherits from its parent.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_a_process(function, *args):
    """What a function puts into the queue that is its last argument, run in a process of its own, so that the peak of
    memory is its own."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=function, args=(*args, results))
    process.start()
    found = results.get()
    process.join()
    return found
