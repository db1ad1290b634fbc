"""Send requests in batches: collect them in files, submit, poll for up to a day, and send again what is missing.

The ledger records a batch and its requests before it is submitted with a label. So if a run dies, the next one finds
the batches that are in progress or finished, and pays for none twice. A batch may end as completed, failed, expired or
cancelled, each time with some of the answers; the missing requests go into another batch. Lines that cannot be read
count as missing, and may have been charged.

A server that takes no batch of this size gets smaller ones, one after the other.
"""

import asyncio
import json
import tempfile
import uuid
from collections import deque
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contextcir.chat.batch_api import (
    ENDPOINT,
    FINAL,
    TooLarge,
    batch_state,
    download,
    find_batch,
    submit_batch,
    upload,
)
from contextcir.chat.dispatch import BaseDispatcher, cancel_all
from contextcir.chat.errors import Error, kind_of
from contextcir.chat.exchange import ChatRequest, ChatStop, Outcome
from contextcir.chat.json_text import read_json
from contextcir.chat.ledger import Entry, Ledger
from contextcir.chat.plain_text import printable
from contextcir.chat.server import ChatServer
from contextcir.chat.stops import stop_for
from contextcir.data.images import ImageError

MAX_REQUESTS, MAX_BYTES = 50_000, 100_000_000  # of one file; a larger request is sent alone
MAX_LINE = 32_000_000  # bytes of a line of an answer file
MAX_ROUNDS = 5  # batches after which a request without an answer has failed
QUIET_SECONDS = 2.0  # a batch is sent if no request has arrived for this long, or for the polling interval


@dataclass(eq=False)
class _Waiting:
    """A request to be sent in a batch, and the future of its outcome."""

    request: ChatRequest
    request_id: str
    outcome: "asyncio.Future[Outcome]"
    batch: str | None  # the batch in which an earlier run sent it
    rounds: int = 0
    forms: set[str] = field(default_factory=set)  # in which it was sent because of errors


class BatchDispatcher(BaseDispatcher):
    """
    Send requests in batches, which cost less and take up to a day. Use it as `async with`. A run that ended early
    continues with its batches when it is started again.

    All requests should be made at once: a batch is sent when no request has arrived for two seconds.

    Args:
        server ([`~contextcir.chat.server.ChatServer`]): Answers the requests.
        ledger: As for [`~contextcir.chat.dispatch.BaseDispatcher`].
        poll_seconds (`float`, defaults to 30): Time between two polls of a batch.
        batch_requests (`int`, defaults to 50,000): The most requests of a batch.

    Raises:
        ValueError: `batch_requests` is out of range.
    """

    server: ChatServer

    def __init__(
        self, server: ChatServer, ledger: Ledger, *, poll_seconds: float = 30.0, batch_requests: int = MAX_REQUESTS
    ):
        if not 1 <= batch_requests <= MAX_REQUESTS:
            raise ValueError(f"Got batch_requests={batch_requests}, expected 1 to {MAX_REQUESTS:,}.")
        super().__init__(server, ledger)
        self.poll_seconds = poll_seconds
        self._most, self._one_by_one = batch_requests, False
        self._queue: deque[_Waiting] = deque()
        self._waiting: set[_Waiting] = set()  # those of the queue and of all batches
        self._collector: asyncio.Task[None] | None = None
        self._batches: set[asyncio.Task[None]] = set()

    async def _send(self, request: ChatRequest, request_id: str, entry: Entry | None) -> Outcome:
        batch = entry.batch if entry and entry.state == "sent" else None
        one = _Waiting(request, request_id, asyncio.get_running_loop().create_future(), batch)
        self._waiting.add(one)
        self._enqueue(one)
        try:
            return await one.outcome
        finally:
            self._waiting.discard(one)

    def _enqueue(self, one: _Waiting) -> None:
        self._queue.append(one)
        if self._collector is None or self._collector.done():
            self._collector = asyncio.create_task(self._guarded(self._collect()))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine. If it fails, pass the error to every request that waits."""
        try:
            await work
        except Exception as error:
            if isinstance(error, ChatStop):
                self._halt(error)
            for one in self._waiting:
                if not one.outcome.done():
                    one.outcome.set_exception(error)

    async def _collect(self) -> None:
        """Whenever no request has arrived for a while, put the queue into new batches and those of an earlier run."""
        while self._queue:
            seen = None  # requests in preparation, and in the queue
            while self._preparing or seen != (0, len(self._queue)):
                seen = self._preparing, len(self._queue)
                await asyncio.sleep(min(QUIET_SECONDS, self.poll_seconds))
            earlier: dict[str, list[_Waiting]] = {}
            new: deque[_Waiting] = deque()
            while self._queue:
                one = self._queue.popleft()
                earlier.setdefault(one.batch, []).append(one) if one.batch else new.append(one)
            for key, members in earlier.items():
                self._start(self._resume(key, members))
            while new:
                if self._one_by_one and self._batches:
                    await asyncio.wait(self._batches, return_when=asyncio.FIRST_COMPLETED)
                    continue
                self._check_stop()
                await self._submit(new)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)

    async def _submit(self, new: deque[_Waiting]) -> None:
        """Send as many requests as the file size and the budget allow. The batch is recorded before it exists."""
        key = uuid.uuid4().hex
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "requests.jsonl"
            members = await self._write(path, key, new)
            if not members:
                return
            file = None
            try:
                file = await upload(self.server, path)
                name = await submit_batch(self.server, file, key)
            except TooLarge as error:
                self._send_smaller(members, str(error))
                return
            except ChatStop as stop:
                if file is None or stop.reason != "unreachable":  # else it may exist: the next run looks for its label
                    self._release(members)
                raise
        self.ledger.name_batch(key, name)
        self._start(self._follow(name, members))

    def _send_smaller(self, members: list[_Waiting], why: str) -> None:
        """Send the requests of a batch that was rejected for its size in smaller ones, one after the other."""
        self._release(members)
        if len(members) == 1 and self._one_by_one:
            raise ChatStop("quota", f"The server takes no batch, however small ({why}). Run again later, or online.")
        others = self._batches - {asyncio.current_task()}
        if self._one_by_one or not others:  # else it is enough to wait for them
            self._most = max(1, min(self._most, len(members)) // 2)
        self._one_by_one = True
        for one in members:
            self._enqueue(one)

    def _release(self, members: list[_Waiting]) -> None:
        for one in members:
            self.ledger.release(one.request_id)

    async def _write(self, path: Path, key: str, new: deque[_Waiting]) -> list[_Waiting]:
        """Write requests into a file, remove them from `new` and return them."""
        members: list[_Waiting] = []
        size = 0
        with open(path, "wb") as file:
            while new and len(members) < self._most:
                one, bound = new[0], self.server.estimate(new[0].request)
                try:
                    body = await asyncio.to_thread(self.server.body, one.request, smaller="large" in one.forms)
                except ImageError as error:
                    self.ledger.adopt()
                    self._finish(new.popleft(), Outcome("failed", error=printable(str(error))))
                    continue
                record = {"custom_id": one.request_id, "method": "POST", "url": ENDPOINT, "body": body}
                line = json.dumps(record).encode() + b"\n"
                if members and size + len(line) > MAX_BYTES:
                    break
                if not members:
                    self.ledger.open_batch(key)
                if not self.ledger.reserve(one.request_id, bound, batch=key):
                    if not members and not self.ledger.in_flight:
                        raise self._budget_stop(bound)
                    if not members:  # batches in flight cost less than reserved: wait for what is left of the budget
                        await asyncio.sleep(self.poll_seconds)
                    break
                members.append(new.popleft())
                size += file.write(line)
        return members

    async def _resume(self, key: str, members: list[_Waiting]) -> None:
        """Continue with a batch of an earlier run."""
        for one in members:
            self.ledger.adopt()
            one.batch = None
        name = self.ledger.batch_name(key) or await find_batch(self.server, key)
        if name is None:  # the earlier run died before the batch was submitted
            self._retry(members, "was never sent")
            return
        self.ledger.name_batch(key, name)
        try:
            await self._follow(name, members)
        except ChatStop as stop:
            if stop.reason != "batch":
                raise
            self._retry(members, f"in a batch that is gone: {stop}")

    async def _follow(self, name: str, members: list[_Waiting]) -> None:
        """Poll a batch to its end and pass on its outcomes. Missing requests are sent again."""
        while (state := await batch_state(self.server, name)).status not in FINAL:
            await asyncio.sleep(self.poll_seconds)
        missing = {one.request_id: one for one in members}
        unread = 0
        with tempfile.TemporaryDirectory() as folder:
            for file in state.files:
                path = Path(folder) / "answers.jsonl"
                await download(self.server, file, path)
                unread += await self._read(path, missing)
        if state.status == "failed":
            error = Error(400, state.error, frozenset([state.code]))
            if (kind := kind_of(error)) in ("queue", "large"):
                self._send_smaller(list(missing.values()), state.error)
                return
            if stop := stop_for(kind, state.error, self.server.model, 0):
                self._release(list(missing.values()))
                raise stop
        why = f"not in a batch that {state.status} {state.error}".rstrip()
        self._retry(missing.values(), f"{why}, with {unread} unreadable lines" if unread else why, unread)
        self._check_stop()

    async def _read(self, path: Path, missing: dict[str, _Waiting]) -> int:
        """Pass on the outcomes in a file, and remove their requests from `missing`. Returns the number of lines that
        cannot be read."""
        unread = 0
        with open(path, "rb") as file:
            while line := file.readline(MAX_LINE):
                if not line.strip():
                    continue
                record = await asyncio.to_thread(read_json, line)
                name = record.get("custom_id") if isinstance(record, dict) else None
                if not isinstance(name, str) or not isinstance(record.get("response"), dict | None):
                    unread += 1
                    continue
                one = missing.get(name)
                if one is None:  # a request that this run does not make
                    continue
                try:
                    outcome = await asyncio.to_thread(self._outcome, record, one)
                except ChatStop as stop:  # the following lines may hold answers
                    self.ledger.release(missing.pop(name).request_id, stop.usd)
                    self._halt(stop)
                    continue
                if outcome:
                    self._finish(missing.pop(name), outcome)
        return unread

    def _outcome(self, record: dict[str, Any], one: _Waiting) -> Outcome | None:
        """Read a line of an answer file; `None` if the request should be sent again."""
        response = record.get("response") or {}
        status, body = response.get("status_code"), response.get("body")
        if status is None and isinstance(body, dict) and body.get("choices"):
            status = 200
        if status is None or not str(status).isdecimal():  # the batch ended before the request was answered
            return None
        outcome = self.server.read_reply(status := int(status), body, None, one.request, one.forms)
        temporary = status in (0, 408, 409) or status >= 500
        if not isinstance(outcome, Outcome) or (outcome.kind == "failed" and temporary):
            return None
        return outcome

    def _finish(self, one: _Waiting, outcome: Outcome) -> None:
        outcome = self._settle(one.request_id, outcome)
        if not one.outcome.done():
            one.outcome.set_result(outcome)

    def _retry(self, members: Iterable[_Waiting], why: str, charged: int = 0) -> None:
        """Send requests again. The first `charged` of them may have cost their bound."""
        for place, one in enumerate(members):
            one.rounds += 1
            lost_usd = self.server.estimate(one.request) if place < charged else 0.0
            if one.rounds < MAX_ROUNDS:
                self.ledger.release(one.request_id, lost_usd)
                self._enqueue(one)
            else:
                error = printable(f"{why}, the last of {one.rounds}")
                self._finish(one, Outcome("failed", error=error, lost_usd=lost_usd))

    async def close(self) -> None:
        """Stop polling. Batches go on at the server, and the next run continues with them."""
        await super().close()
        await cancel_all([task for task in (self._collector, *self._batches) if task])
