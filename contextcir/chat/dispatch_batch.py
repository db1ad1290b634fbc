"""Requests in files: collected while people ask, sent, watched for up to a day, and what is missing sent again.

The ledger knows a batch and its members before the server does. So whatever a run leaves behind when it dies, the next
one goes on with: batches that are at work or done are asked after and not paid twice. Batches may end as completed,
failed, expired or cancelled, and in each case with a part of the answers; only what they lack goes into another.
"""

import asyncio
import json
import tempfile
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextcir.chat.batch_api import (
    FINAL,
    batch_line,
    batch_state,
    download_lines,
    find_batch,
    submit_batch,
    upload_requests,
)
from contextcir.chat.dispatch import Asking
from contextcir.chat.ledger import Entry, Ledger
from contextcir.chat.server import ChatRequest, ChatServer, ChatStop, Outcome
from contextcir.data.images import ImageError


@dataclass(eq=False)
class _Waiting:
    """A request that goes by batch, and who waits for it."""

    request: ChatRequest
    request_id: str
    outcome: asyncio.Future
    batch: str | None  # the batch that an earlier run has sent it in
    rounds: int = 0


class BatchDispatcher(Asking):
    """
    Sends what is asked in batches, which cost less and take up to a day. Use it as `async with`; a run that ends goes
    on with its batches when it is started again.

    Everything should be asked at once: a batch is sent when nobody has asked for `quiet_seconds`.

    Args:
        max_requests (`int`, defaults to 50,000), max_bytes (`int`, defaults to 100,000,000): Of one file.
        max_rounds (`int`, defaults to 5): Batches that a request may go with until it counts as failed.
        poll_seconds (`float`, defaults to 30): Between two looks at a batch.
        quiet_seconds (`float`, defaults to 2): See above.
        **others: See [`Asking`]: `server`, `ledger`, `on_progress`, `expected`.
    """

    def __init__(
        self,
        server: ChatServer,
        ledger: Ledger,
        *,
        max_requests: int = 50_000,
        max_bytes: int = 100_000_000,
        max_rounds: int = 5,
        poll_seconds: float = 30.0,
        quiet_seconds: float = 2.0,
        **others: Any,
    ):
        super().__init__(server, ledger, **others)
        self.max_requests, self.max_bytes, self.max_rounds = max_requests, max_bytes, max_rounds
        self.poll_seconds, self.quiet_seconds = poll_seconds, quiet_seconds
        self._queue: deque[_Waiting] = deque()
        self._waiting: set[_Waiting] = set()  # those of the queue and of all batches
        self._collector: asyncio.Task | None = None
        self._batches: set[asyncio.Task] = set()

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
            self._collector = asyncio.create_task(self._halting(self._collect()))

    async def _halting(self, work) -> None:
        """Do a part of the work; if it fails, nobody waits for an outcome in vain."""
        try:
            await work
        except Exception as error:
            if isinstance(error, ChatStop):
                self._halt(error)
            for one in self._waiting:
                if not one.outcome.done():
                    one.outcome.set_exception(error)

    async def _collect(self) -> None:
        """Empty the queue, whenever nobody has asked for a while, into new batches and those of an earlier run."""
        while self._queue:
            seen = None  # questions in preparation, and in the queue
            while self._preparing or seen != (0, len(self._queue)):
                seen = self._preparing, len(self._queue)
                await asyncio.sleep(self.quiet_seconds)
            earlier: dict[str, list[_Waiting]] = {}
            new = deque()
            while self._queue:
                one = self._queue.popleft()
                earlier.setdefault(one.batch, []).append(one) if one.batch else new.append(one)
            for key, members in earlier.items():
                self._start(self._resume(key, members))
            while new:
                self._check_stop()
                await self._submit(new)

    def _start(self, work) -> None:
        task = asyncio.create_task(self._halting(work))
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)

    async def _submit(self, new: deque[_Waiting]) -> None:
        """Send as many as a file and the budget hold. The batch is noted, with its members, before it exists."""
        key = uuid.uuid4().hex
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "requests.jsonl"
            members = await self._write(path, key, new)
            if not members:
                return
            try:
                file = await upload_requests(self.server, path)
            except ChatStop:
                self._release(members)
                raise
        try:
            name = await submit_batch(self.server, file, key)
        except ChatStop as stop:
            if stop.reason != "unreachable":  # else the batch may exist: the next run looks for its label
                self._release(members)
            raise
        self.ledger.name_batch(key, name)
        self._start(self._follow(name, members))

    def _release(self, members: list[_Waiting]) -> None:
        for one in members:
            self.ledger.release(one.request_id)

    async def _write(self, path: Path, key: str, new: deque[_Waiting]) -> list[_Waiting]:
        members, size = [], 0
        with open(path, "wb") as file:
            while new and len(members) < self.max_requests:
                one, bound = new[0], self.server.estimate(new[0].request)
                try:
                    body = await asyncio.to_thread(self.server.body, one.request)
                except ImageError as error:
                    self.ledger.adopt()
                    self._hand_out(new.popleft(), Outcome("failed", error=str(error)))
                    continue
                line = batch_line(one.request_id, body)
                if members and size + len(line) > self.max_bytes:
                    break
                if not members:
                    self.ledger.open_batch(key)
                if not self.ledger.reserve(one.request_id, bound, batch=key):
                    await self._await_budget(bound, members)
                    break
                members.append(new.popleft())
                size += file.write(line)
        return members

    async def _await_budget(self, bound: float, members: list[_Waiting]) -> None:
        if not members and not self.ledger.in_flight:
            raise self._budget_stop(bound)
        if not members:  # money of the batches on their way, which cost less than bound, comes back
            await asyncio.sleep(self.poll_seconds)

    async def _resume(self, key: str, members: list[_Waiting]) -> None:
        for one in members:
            self.ledger.adopt()
            one.batch = None
        name = self.ledger.batch_name(key) or await find_batch(self.server, key)
        if name is None:  # the run before died before the server heard of it
            self._again(members, "was never sent")
            return
        self.ledger.name_batch(key, name)
        try:
            await self._follow(name, members)
        except ChatStop as stop:
            if stop.reason != "batch":
                raise
            self._again(members, f"in a batch that is gone: {stop}")

    async def _follow(self, name: str, members: list[_Waiting]) -> None:
        """Wait for a batch and hand out its outcomes; what it lacks is asked for again."""
        while (state := await batch_state(self.server, name)).status not in FINAL:
            await asyncio.sleep(self.poll_seconds)
        missing = {one.request_id: one for one in members}
        with tempfile.TemporaryDirectory() as folder:
            for file in state.files:
                path = Path(folder) / "answers.jsonl"
                await download_lines(self.server, file, path)
                await self._read(path, missing)
        self._again(list(missing.values()), f"not in a batch that {state.status} {state.error}".rstrip())
        if state.status == "failed":
            self.server.read_error(400, {"code": state.code, "message": state.error})  # stops where it is the quota
        self._check_stop()

    async def _read(self, path: Path, missing: dict[str, _Waiting]) -> None:
        """Hand out what a file tells of, and leave the others missing."""
        with open(path, "rb") as file:
            for line in file:
                record = json.loads(line)
                one = missing.get(record["custom_id"])
                if one is None:  # of a request that nobody asks for now
                    continue
                try:
                    outcome = self._outcome(record, one.request)
                except ChatStop as stop:  # the lines behind may hold answers
                    self.ledger.release(missing.pop(one.request_id).request_id, stop.usd)
                    self._halt(stop)
                    continue
                if outcome:
                    self._hand_out(missing.pop(one.request_id), outcome)
                await asyncio.sleep(0)

    def _outcome(self, record: dict[str, Any], request: ChatRequest) -> Outcome | None:
        """What a line tells of; `None` where it is worth another try."""
        response = record.get("response") or {}
        status, body = response.get("status_code") or 0, response.get("body")
        if status == 200:
            return self.server.read_response(body, request)
        outcome = self.server.read_error(status, body)
        again = status in (0, 408, 409, 429) or status >= 500  # 0: the server did not come to it
        if outcome.kind == "failed" and (again or self.server.turns_down_schema(status, outcome.error)):
            return None
        return outcome

    def _hand_out(self, one: _Waiting, outcome: Outcome) -> None:
        outcome = self._settle(one.request_id, outcome)
        if not one.outcome.done():
            one.outcome.set_result(outcome)

    def _again(self, members: list[_Waiting], why: str) -> None:
        for one in members:
            one.rounds += 1
            if one.rounds < self.max_rounds:
                self.ledger.release(one.request_id)
                self._enqueue(one)
            else:
                self._hand_out(one, Outcome("failed", error=f"{why}, the last of {one.rounds}"))

    async def close(self) -> None:
        """Stop watching. Batches go on without us, and the next run asks after them."""
        await super().close()
        tasks = [task for task in (self._collector, *self._batches) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
