"""Signals that ask a run to stop: a scheduler's SIGTERM and SIGUSR1, and Ctrl-C.

The first one lets the run save a checkpoint and exit with 75 ("run me again"), a second one ends it at once. This file
imports nothing heavy, so that a command can listen from its first moment.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

RUN_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
# A launcher passes on what each of its processes has already got from the scheduler or the terminal.
ECHO_SECONDS = 2.0


class RunStopped(SystemExit):
    """A signal has stopped a run, which can go on later. Uncaught, it ends the process with code 75."""

    def __init__(self, message: str):
        super().__init__(RUN_AGAIN)
        self.message = message

    def __str__(self) -> str:
        return self.message


class StopRequest:
    """
    What signals have asked for so far.

    Attributes:
        signal (`str`, *optional*): Name of the first signal, such as `SIGTERM`.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._when = 0.0
        self._at_once = False
        self._process = os.getpid()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise [`RunStopped`] right where a signal arrives, inside a `with` block that leaves nothing half-done."""
        before, self._at_once = self._at_once, True
        try:
            if self.signal is not None:
                self._stop_here()
            yield
        finally:
            self._at_once = before

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only take note of a signal, inside a `with` block that asks for it by itself."""
        before, self._at_once = self._at_once, False
        try:
            yield
        finally:
            self._at_once = before

    def _stop_here(self) -> None:
        raise RunStopped(f"stopped by {self.signal}. Run the same command again.")

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a process forked from this one
            if number == signal.SIGTERM:
                _end_by(number)
            return
        if self.signal is not None:
            launched = "LOCAL_RANK" in os.environ
            if not launched or time.monotonic() - self._when > ECHO_SECONDS:
                _end_by(number)
            return
        self.signal, self._when = signal.Signals(number).name, time.monotonic()
        print(f"{self.signal}: stopping. A second signal ends at once.", file=sys.stderr, flush=True)  # noqa: T201
        if self._at_once:
            self._stop_here()


_active: StopRequest | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Listen to the signals inside a `with` block, and yield what they ask for. Blocks inside share it with the first.
    Outside of the main thread, where Python has no handlers, nothing is ever asked for."""
    global _active
    if _active is not None:
        yield _active
        return
    request = StopRequest()
    try:
        before = {number: signal.signal(number, request._handle) for number in SIGNALS}
    except ValueError:  # not the main thread
        yield request
        return
    _active = request
    try:
        yield request
    finally:
        _active = None
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _end_by(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
