"""Workers of data loaders: they leave signals to the run.

A scheduler and Ctrl-C signal all processes of a job. A worker that ended by it would stop the run before it has saved.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkContext, ForkProcess
from typing import Any

from torch.utils.data import DataLoader

from contextcir.training.stop_signals import SIGNALS


def shield_workers(loader: DataLoader) -> DataLoader:
    """Return a data loader whose workers, from their very start, outlive signals as long as the run needs them."""
    if not loader.num_workers or not hasattr(signal, "sigwaitinfo"):  # not on Windows and macOS
        return loader
    started = getattr(loader, "base_dataloader", loader)  # accelerate wraps the loader that starts the workers
    started.worker_init_fn = partial(_leave_signals, init=started.worker_init_fn)
    if started.multiprocessing_context is None and multiprocessing.get_start_method() == "fork":
        context = ForkContext()
        context.Process = _ShieldedProcess  # type: ignore[misc]
        started.multiprocessing_context = context
    return loader


class _ShieldedProcess(ForkProcess):
    """A process that starts with blocked signals: what comes before its own handlers waits for them."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals(worker_id: int, init: Callable[[int], Any] | None = None) -> None:
    others = [number for number in SIGNALS if number != signal.SIGTERM]
    for number in others:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, others)
    threading.Thread(target=_end_by_parent, daemon=True).start()
    if init is not None:
        init(worker_id)


def _end_by_parent() -> None:
    """Wait for the SIGTERM by which the run itself ends a worker. Those of others are ignored."""
    parent = multiprocessing.parent_process()
    while True:
        if signal.sigwaitinfo([signal.SIGTERM]).si_pid == getattr(parent, "pid", None):
            os._exit(0)
