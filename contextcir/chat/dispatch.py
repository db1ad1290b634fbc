"""What both dispatchers have in common: a question asked twice is sent once, and what is known is not asked.

A malformed answer is asked for once more. Left out: sending refused, filtered or cut requests again, which would give
the same and cost the same.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from contextcir.chat.ledger import SETTLED, TEMPORARY, Entry, Ledger
from contextcir.chat.pace import Progress
from contextcir.chat.server import ChatRequest, ChatServer, ChatStop, Outcome
from contextcir.data.images import ImageError

DRAIN_SECONDS = 10.0  # that requests on their way are given to arrive when a run is interrupted
# Of an outcome, in a ledger
_KNOWN = ("kind", "model", "text", "error", "prompt_tokens", "completion_tokens", "usd")


class Asking:
    """
    What both dispatchers have in common: a question asked twice is sent once, and what is known is not asked.

    Args:
        server ([`ChatServer`]): Whom to ask.
        ledger ([`Ledger`]): Where outcomes are noted; dispatchers of several servers may share one.
        on_progress (`Callable[[Progress], None]`, *optional*): Called at each outcome.
        expected (`int`, *optional*): How many questions will be asked, for the time left.
    """

    def __init__(
        self,
        server: ChatServer,
        ledger: Ledger,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        expected: int | None = None,
    ):
        self.server = server
        self.ledger = ledger
        self.progress = Progress(expected)
        self._on_progress = on_progress
        self._tasks: dict[str, asyncio.Task] = {}  # by request id
        self._on_their_way: set[asyncio.Task] = set()
        self._preparing = 0  # questions whose images are being read
        self._stop: ChatStop | None = None

    async def ask(self, request: ChatRequest) -> Outcome:
        """
        The outcome of a request, from the ledger or the server. A malformed answer is asked for once more.

        Raises:
            [`ChatStop`]: Going on is pointless.
        """
        outcome = await self._ask_once(request)
        if outcome.kind == "malformed" and request.attempt == 0:
            return await self.ask(replace(request, attempt=1))
        self.progress.kinds[outcome.kind] += 1
        if self._on_progress:
            self._on_progress(self.progress)
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
        return await asyncio.shield(task)  # who asks may be cancelled; what is on its way is paid for

    def _forget(self, request_id: str, task: asyncio.Task) -> None:
        del self._tasks[request_id]
        if not task.cancelled():
            task.exception()  # looked at, since whoever asked may be gone and asyncio would report it as lost

    async def _answer(self, request: ChatRequest, request_id: str) -> Outcome:
        entry = self.ledger.find(request_id)
        if entry and entry.state in SETTLED and entry.kind != TEMPORARY:
            return _recall(entry, request)
        self._check_stop()
        self.ledger.plan(request_id, request.role, request.attempt)
        return await self._send(request, request_id, entry)

    async def _send(self, request: ChatRequest, request_id: str, entry: Entry | None) -> Outcome:
        raise NotImplementedError

    def _settle(self, request_id: str, outcome: Outcome) -> Outcome:
        value = outcome.value
        answer = json.dumps(value) if isinstance(value, str) else value and value.model_dump_json()
        known = {name: getattr(outcome, name) for name in (*_KNOWN, "lost_usd")}
        self.ledger.settle(request_id, answer=answer, **known)
        self.progress.sent += 1
        self.progress.prompt_tokens += outcome.prompt_tokens
        self.progress.completion_tokens += outcome.completion_tokens
        self.progress.usd += outcome.usd + outcome.lost_usd
        return replace(outcome, request_id=request_id)

    def _halt(self, stop: ChatStop) -> None:
        self._stop = self._stop or stop

    def _check_stop(self) -> None:
        if self._stop:
            raise self._stop.with_traceback(None)  # raised by thousands, and a traceback grows each time

    def _budget_stop(self, usd: float) -> ChatStop:
        ledger = self.ledger
        return ChatStop(
            "budget",
            f"The next request may cost ${usd:.4f}, and of ${ledger.max_usd:.2f} are spent ${ledger.spent_usd:.4f} and"
            f" perhaps another ${ledger.unsure_usd:.4f}. Raise the limit and run again; nothing is lost.",
        )

    async def close(self) -> None:
        """Send nothing more, and give what is on its way up to 10 seconds to arrive."""
        self._halt(ChatStop("interrupted", "The run was interrupted. Run it again to go on."))
        tasks = set(self._tasks.values())
        for task in tasks - self._on_their_way:
            task.cancel()
        if self._on_their_way:
            await asyncio.wait(set(self._on_their_way), timeout=DRAIN_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()


def _recall(entry: Entry, request: ChatRequest) -> Outcome:
    value = None
    if entry.answer is not None:
        value = request.schema.model_validate_json(entry.answer) if request.schema else json.loads(entry.answer)
    return Outcome(value=value, request_id=entry.id, **{name: getattr(entry, name) for name in _KNOWN})
