"""Send each request once: repeated requests share one answer, and answers in the ledger are not requested again.

A malformed answer is requested once more. Left out: sending refused, filtered or cut requests again, which would give
the same result at the same cost.
"""

import asyncio
import logging
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from contextcir.chat.attempts import on_send
from contextcir.chat.exchange import ChatBackend, ChatRequest, ChatStop, Outcome
from contextcir.chat.ledger import SETTLED, TEMPORARY, Entry, Ledger
from contextcir.chat.pace import Limit
from contextcir.data.images import ImageError

logger = logging.getLogger("contextcir.chat")

DRAIN_SECONDS = 10.0  # how long an interrupted run waits for requests in flight


@dataclass
class Usage:
    """
    Requests, tokens and cost of a dispatcher in this run.

    Args:
        sent (`int`): Requests with an outcome, second attempts included.
        prompt_tokens (`int`), completion_tokens (`int`): Their tokens.
        usd (`float`): Their cost, including what may have been charged without an answer.
    """

    sent: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0


class BaseDispatcher(AbstractAsyncContextManager):
    """
    The part that both dispatchers share.

    Args:
        server ([`~contextcir.chat.exchange.ChatBackend`]): Answers the requests.
        ledger ([`~contextcir.chat.ledger.Ledger`]): Records the outcomes; dispatchers of several servers may share it.

    Attributes:
        usage ([`Usage`]): Requests, tokens and cost so far.
    """

    def __init__(self, server: ChatBackend, ledger: Ledger):
        self.server = server
        self.ledger = ledger
        self.usage = Usage()
        self._tasks: dict[str, asyncio.Task[Outcome]] = {}  # by request id
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._preparing = 0  # requests whose images are being read
        self._stop: ChatStop | None = None

    async def ask(self, request: ChatRequest) -> Outcome:
        """
        Return the outcome of a request, from the ledger or the server. A malformed answer is requested once more.

        Raises:
            [`~contextcir.chat.exchange.ChatStop`]: The run must end.
        """
        outcome = await self._ask_once(request)
        if outcome.kind == "malformed" and request.attempt == 0:
            outcome = await self._ask_once(replace(request, attempt=1))
        return outcome

    async def _ask_once(self, request: ChatRequest) -> Outcome:
        self._preparing += 1
        try:
            request_id = await asyncio.to_thread(self.server.request_id, request)
        except ImageError as error:
            return Outcome("failed", error=str(error))
        finally:
            self._preparing -= 1
        task = self._tasks.get(request_id)
        if task is None:
            task = self._tasks[request_id] = asyncio.create_task(self._answer(request, request_id))
            task.add_done_callback(partial(self._forget, request_id))
        return await asyncio.shield(task)  # the caller may be cancelled; a request in flight is paid for

    def _forget(self, request_id: str, task: asyncio.Task[Outcome]) -> None:
        del self._tasks[request_id]
        if not task.cancelled():
            task.exception()  # retrieved, since asyncio would report it as lost if the caller was cancelled

    async def _answer(self, request: ChatRequest, request_id: str) -> Outcome:
        entry = self.ledger.find(request_id)
        if entry and entry.state in SETTLED and entry.kind != TEMPORARY:
            try:
                return entry.outcome(request.schema)
            except ValueError:
                logger.warning("%s: the answer of %s is damaged. It is sent again.", self.ledger.path, request_id)
        self._check_stop()
        self.ledger.plan(request_id, request.role, request.attempt)
        return await self._send(request, request_id, entry)

    async def _send(self, request: ChatRequest, request_id: str, entry: Entry | None) -> Outcome:
        raise NotImplementedError

    def _settle(self, request_id: str, outcome: Outcome) -> Outcome:
        self.ledger.settle(request_id, outcome)
        self.usage.sent += 1
        self.usage.prompt_tokens += outcome.prompt_tokens
        self.usage.completion_tokens += outcome.completion_tokens
        self.usage.usd += outcome.usd + outcome.lost_usd
        return replace(outcome, request_id=request_id)

    def halt(self, stop: ChatStop) -> None:
        """Send nothing more: every request that is not in flight raises this."""
        self._stop = self._stop or stop

    _halt = halt

    def _check_stop(self) -> None:
        if self._stop:
            raise self._stop.with_traceback(None)  # raised thousands of times, and its traceback would grow each time

    def _budget_stop(self, usd: float) -> ChatStop:
        ledger = self.ledger
        return ChatStop(
            "budget",
            f"The next request may cost ${usd:.4f}. Of ${ledger.max_usd:.2f}, ${ledger.spent_usd:.4f} are spent and"
            f" another ${ledger.unsure_usd:.4f} may be. Raise the limit and run again; nothing is lost.",
        )

    async def close(self) -> None:
        """Send nothing more, and wait up to 10 seconds for requests in flight."""
        self._halt(ChatStop("interrupted", "The run was interrupted. Run it again to continue."))
        tasks = set(self._tasks.values())
        for task in tasks - self._in_flight:
            task.cancel()
        if self._in_flight:
            await asyncio.wait(set(self._in_flight), timeout=DRAIN_SECONDS)
        await cancel_all(tasks)

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Dispatcher(BaseDispatcher):
    """
    Send each request on its own. Use it as `async with`, so that requests in flight can finish at the end.

    Args:
        server, ledger: As for [`BaseDispatcher`].
        concurrency (`int`, defaults to 32): The largest number of requests at a time. It is reduced while the server
            rejects many of them.

    Raises:
        ValueError: `concurrency` is below 1.
    """

    def __init__(self, server: ChatBackend, ledger: Ledger, *, concurrency: int = 32):
        if concurrency < 1:
            raise ValueError(f"Got concurrency={concurrency}, expected at least 1.")
        super().__init__(server, ledger)
        self._limit = Limit(concurrency)

    async def _send(self, request: ChatRequest, request_id: str, entry: Entry | None) -> Outcome:
        if entry and entry.state == "sent" and entry.batch:
            self._halt(ChatStop("batch", "Some requests are in an earlier batch. Finish it in batch mode first."))
        task: Any = asyncio.current_task()
        async with self._limit:
            bound = self.server.estimate(request)
            await self._reserve(request_id, bound)
            self._in_flight.add(task)
            on_send.set(partial(self.ledger.mark_sent, request_id))
            if not getattr(self.server, "reports_sends", False):
                self.ledger.mark_sent(request_id)
            try:
                outcome = await self.server.complete(request, self._limit.note)
            except ChatStop as stop:
                self.ledger.release(request_id, stop.usd)
                self._halt(stop)
                raise
            except Exception:
                self.ledger.release(request_id, bound)
                raise
            finally:
                self._in_flight.discard(task)
            return self._settle(request_id, outcome)

    async def _reserve(self, request_id: str, usd: float) -> None:
        """Reserve the cost of a request. If the budget is short, wait for requests in flight, which cost less than
        reserved."""
        self._check_stop()
        while not self.ledger.reserve(request_id, usd):
            if not self.ledger.in_flight:
                self._halt(self._budget_stop(usd))
            await asyncio.sleep(0.02)
            self._check_stop()


async def cancel_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
