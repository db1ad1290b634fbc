"""Requests one by one, many at a time."""

import asyncio
from typing import Any

from contextcir.chat.dispatch import Asking
from contextcir.chat.ledger import Entry, Ledger
from contextcir.chat.pace import Limit
from contextcir.chat.server import ChatRequest, ChatServer, ChatStop, Outcome


class Dispatcher(Asking):
    """
    Sends each request by itself. Use it as `async with`, so that what is on its way arrives at the end.

    Args:
        concurrency (`int`, defaults to 32): The most requests on their way at a time.
        **others: See [`Asking`]: `server`, `ledger`, `on_progress`, `expected`.
    """

    def __init__(self, server: ChatServer, ledger: Ledger, *, concurrency: int = 32, **others: Any):
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {concurrency}.")
        super().__init__(server, ledger, **others)
        self._limit = Limit(concurrency)

    async def _send(self, request: ChatRequest, request_id: str, entry: Entry | None) -> Outcome:
        if entry and entry.state == "sent" and entry.batch:
            self._halt(ChatStop("batch", "Requests are in a batch that was sent earlier. Go on in batch mode first."))
        async with self._limit:
            bound = self.server.estimate(request)
            await self._reserve(request_id, bound)
            task = asyncio.current_task()
            self._on_their_way.add(task)
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
                self._on_their_way.discard(task)
            return self._settle(request_id, outcome)

    async def _reserve(self, request_id: str, usd: float) -> None:
        """Set money aside; where it is short, wait for that of requests on their way, which cost less than bound."""
        self._check_stop()
        while not self.ledger.reserve(request_id, usd):
            if not self.ledger.in_flight:
                self._halt(self._budget_stop(usd))
            await asyncio.sleep(0.02)
            self._check_stop()
