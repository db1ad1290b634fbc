"""End a run at Ctrl-C or SIGTERM without losing what is in flight: the run is cancelled, and its `finally` drains."""

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)
T = TypeVar("T")


class Terminated(KeyboardInterrupt):
    """SIGTERM has ended a run, as Ctrl-C does. The same command goes on."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h, "run me again"


def run_until_signal(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine in a loop that is not running. The first signal cancels it, the second ends at once.

    Args:
        loop (`asyncio.AbstractEventLoop`): The loop.
        work (`Coroutine`): The coroutine.

    Raises:
        KeyboardInterrupt: A signal came; [`Terminated`] if it was SIGTERM. (Only the main thread gets signals.)
    """
    task = loop.create_task(work)
    received: list[type[KeyboardInterrupt]] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
        if len(received) > 1:
            raise received[-1]
        loop.call_soon_threadsafe(task.cancel)

    with _handled_by(handle):
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError:
            raise (received or [KeyboardInterrupt])[0] from None


def run_in_new_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own, see [`run_until_signal`]."""
    loop = asyncio.new_event_loop()
    try:
        return run_until_signal(loop, work)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@contextmanager
def _handled_by(handle: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
