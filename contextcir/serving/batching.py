"""Join requests that arrive together into one forward pass, from a queue that is bounded.

A model on one device is fastest when one thread asks it, with several queries at a time. Requests wait a few
milliseconds for others; while a pass runs, those that arrive join the next one. When the queue is full, the next
request is refused at once instead of waiting for longer than anyone would.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from contextcir.serving.errors import busy

Job = TypeVar("Job")
Result = TypeVar("Result")


class Lane:
    """
    One thread that does one thing at a time, in order. It does not keep the process from ending.

    Args:
        name (`str`): Name of the thread.
    """

    def __init__(self, name: str):
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the thread, and return what it returns. One that nobody waits for any more is not
        called."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._calls.put((loop, future, partial(function, *args)))
        return await future

    def close(self) -> None:
        """End the thread after what it is doing."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            loop, future, function = call
            if future.cancelled():
                continue
            result, error = None, None
            try:
                result = function()
            except Exception as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_settle, future, result, error)
            del call, future, function, result, error  # or they would live until the next call


def _settle(future: asyncio.Future, result: Any, error: Exception | None) -> None:
    if not future.done():
        future.set_exception(error) if error else future.set_result(result)


@dataclass
class _Waiting(Generic[Job, Result]):
    job: Job
    future: "asyncio.Future[tuple[Result, float]]"
    since: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Job, Result]):
    """
    A bounded queue in front of work that is done for several jobs at once.

    Args:
        work (`Callable`): Jobs -> for each job its result, or the exception that it ends with. Runs in `lane`.
        lane ([`Lane`]): The thread of the work.
        size (`int`): Most jobs of one call.
        wait (`float`): Seconds that a job waits for others.
        limit (`int`): Most jobs that wait or are worked on.

    Attributes:
        pending (`int`): Jobs that wait or are worked on.
        sizes (`Callable[[int], None]`): Is told the number of jobs of each call.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Job]], Sequence[Result | Exception]],
        lane: Lane,
        *,
        size: int,
        wait: float,
        limit: int,
        sizes: Callable[[int], None] = lambda size: None,
    ):
        self.work, self.lane, self.size, self.wait, self.limit, self.sizes = work, lane, size, wait, limit, sizes
        self.pending = 0
        self._queue: deque[_Waiting[Job, Result]] = deque()
        self._seconds = 0.05  # that a job takes, as of late
        self._arrived = asyncio.Event()

    def check(self) -> None:
        """Raise a `RefusedError` (429) if the queue is full."""
        if self.pending >= self.limit:
            raise busy(self.pending * self._seconds, f"{self.limit} searches are waiting already")

    async def submit(self, job: Job) -> tuple[Result, float]:
        """
        Put a job into the queue, and wait for its result. A job whose waiter is cancelled is not worked on.

        Returns:
            `tuple`: The result, and the seconds that the job spent in the queue.

        Raises:
            `RefusedError`: The queue is full (429). Or the exception that `work` returned for the job.
        """
        self.check()
        waiting: _Waiting[Job, Result] = _Waiting(job, asyncio.get_running_loop().create_future())
        self.pending += 1
        try:
            self._queue.append(waiting)
            self._arrived.set()
            return await waiting.future
        finally:
            self.pending -= 1

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._arrived.wait()
            if self._queue and len(self._queue) < self.size:
                await asyncio.sleep(max(0.0, self._queue[0].since + self.wait - time.perf_counter()))
            batch = self._take()
            if not self._queue:
                self._arrived.clear()
            if batch:
                await self._do(batch)

    def _take(self) -> list[_Waiting[Job, Result]]:
        batch: list[_Waiting[Job, Result]] = []
        while self._queue and len(batch) < self.size:
            waiting = self._queue.popleft()
            if not waiting.future.done():
                batch.append(waiting)
        return batch

    async def _do(self, batch: list[_Waiting[Job, Result]]) -> None:
        begun = time.perf_counter()
        self.sizes(len(batch))
        results: Sequence[Result | Exception]
        try:
            results = await self.lane.run(self.work, [waiting.job for waiting in batch])
        except Exception as error:
            results = [error] * len(batch)
        each = (time.perf_counter() - begun) / len(batch)
        self._seconds += 0.2 * (each - self._seconds)
        for waiting, result in zip(batch, results, strict=True):
            if waiting.future.done():
                continue
            if isinstance(result, Exception):
                waiting.future.set_exception(result)
            else:
                waiting.future.set_result((result, begun - waiting.since))
