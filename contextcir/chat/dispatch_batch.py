"""Send requests in batches: collect them in files, submit, poll for up to a day, and send again what is missing.

The ledger records a batch and its requests before it is submitted with a label. So if a run dies, the next one finds
the batches that are in progress or finished, and pays for none twice. A batch may end as completed, failed, expired or
cancelled, each time with some of the answers; the missing requests go into another batch.
"""

import asyncio
import json
import tempfile
import uuid
from collections import deque
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from contextcir.chat.dispatch import BaseDispatcher, cancel_all
from contextcir.chat.exchange import ChatRequest, ChatStop, Outcome
from contextcir.chat.ledger import Entry, Ledger
from contextcir.chat.server import ChatServer
from contextcir.data.images import ImageError

ENDPOINT = "/v1/chat/completions"
LABEL = "contextcir"  # the name of a batch's label in its metadata
FINAL = ("completed", "failed", "expired", "cancelled")
MAX_REQUESTS, MAX_BYTES = 50_000, 100_000_000  # of one file; a larger request is sent alone
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


class BatchDispatcher(BaseDispatcher):
    """
    Send requests in batches, which cost less and take up to a day. Use it as `async with`. A run that ended early
    continues with its batches when it is started again.

    All requests should be made at once: a batch is sent when no request has arrived for two seconds.

    Args:
        server ([`~contextcir.chat.server.ChatServer`]): Answers the requests.
        ledger: As for [`~contextcir.chat.dispatch.BaseDispatcher`].
        poll_seconds (`float`, defaults to 30): Time between two polls of a batch.
    """

    server: ChatServer

    def __init__(self, server: ChatServer, ledger: Ledger, *, poll_seconds: float = 30.0):
        super().__init__(server, ledger)
        self.poll_seconds = poll_seconds
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
            try:
                with self.server.translated_errors(), open(path, "rb") as content:
                    file = await self.server.client.files.create(file=content, purpose="batch")
            except ChatStop:
                self._release(members)
                raise
        try:
            name = await submit_batch(self.server, file.id, key)
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
        """Write requests into a file, remove them from `new` and return them."""
        members: list[_Waiting] = []
        size = 0
        with open(path, "wb") as file:
            while new and len(members) < MAX_REQUESTS:
                one, bound = new[0], self.server.estimate(new[0].request)
                try:
                    body = await asyncio.to_thread(self.server.body, one.request)
                except ImageError as error:
                    self.ledger.adopt()
                    self._finish(new.popleft(), Outcome("failed", error=str(error)))
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
        with tempfile.TemporaryDirectory() as folder:
            for file in state.files:
                path = Path(folder) / "answers.jsonl"
                with self.server.translated_errors():  # downloads it without holding it in memory
                    async with self.server.client.files.with_streaming_response.content(file) as response:
                        await response.stream_to_file(path)
                await self._read(path, missing)
        self._retry(missing.values(), f"not in a batch that {state.status} {state.error}".rstrip())
        if state.status == "failed":
            self.server.read_error(400, {"code": state.code, "message": state.error})  # raises if it was the quota
        self._check_stop()

    async def _read(self, path: Path, missing: dict[str, _Waiting]) -> None:
        """Pass on the outcomes in a file, and remove their requests from `missing`."""
        with open(path, "rb") as file:
            for line in file:
                record = json.loads(line)
                one = missing.get(record["custom_id"])
                if one is None:  # a request that this run does not make
                    continue
                try:
                    outcome = self._outcome(record, one.request)
                except ChatStop as stop:  # the following lines may hold answers
                    self.ledger.release(missing.pop(one.request_id).request_id, stop.usd)
                    self._halt(stop)
                    continue
                if outcome:
                    self._finish(missing.pop(one.request_id), outcome)
                await asyncio.sleep(0)

    def _outcome(self, record: dict[str, Any], request: ChatRequest) -> Outcome | None:
        """Read a line of an answer file; `None` if the request should be sent again."""
        response = record.get("response") or {}
        status, body = response.get("status_code") or 0, response.get("body")
        if status == 200:
            return self.server.read_response(body, request)
        outcome = self.server.read_error(status, body)
        temporary = status in (0, 408, 409, 429) or status >= 500  # 0: the batch ended before the request was answered
        if outcome.kind == "failed" and (temporary or self.server.rejects_schema(status, outcome.error)):
            return None
        return outcome

    def _finish(self, one: _Waiting, outcome: Outcome) -> None:
        outcome = self._settle(one.request_id, outcome)
        if not one.outcome.done():
            one.outcome.set_result(outcome)

    def _retry(self, members: Iterable[_Waiting], why: str) -> None:
        for one in members:
            one.rounds += 1
            if one.rounds < MAX_ROUNDS:
                self.ledger.release(one.request_id)
                self._enqueue(one)
            else:
                self._finish(one, Outcome("failed", error=f"{why}, the last of {one.rounds}"))

    async def close(self) -> None:
        """Stop polling. Batches go on at the server, and the next run continues with them."""
        await super().close()
        await cancel_all([task for task in (self._collector, *self._batches) if task])


# --- the Batch API ---------------------------------------------------------------------------------------------------


class BatchState(NamedTuple):
    """The state of a batch: `status` in the server's terms, `files` of answers and errors, and the `code` and `error`
    of a batch that failed as a whole."""

    status: str
    files: tuple[str, ...]
    code: str
    error: str


async def submit_batch(server: ChatServer, file: str, key: str) -> str:
    """
    Submit an uploaded file as a batch with a label. Returns the server's id of the batch.

    Raises:
        [`~contextcir.chat.exchange.ChatStop`]: If its reason is "unreachable", the batch may exist all the same.
    """
    with server.translated_errors():
        # Without retries: if only the response was lost, the batch exists, and a second one would be charged too.
        batch = await server.client.with_options(max_retries=0).batches.create(
            input_file_id=file, endpoint=ENDPOINT, completion_window="24h", metadata={LABEL: key}
        )
    return batch.id


async def find_batch(server: ChatServer, key: str) -> str | None:
    """Return the server's id of the batch with this label, if there is one."""
    with server.translated_errors():
        async for batch in server.client.batches.list(limit=100):
            if (batch.metadata or {}).get(LABEL) == key:
                return batch.id
    return None


async def batch_state(server: ChatServer, name: str) -> BatchState:
    """Poll the state of a batch."""
    with server.translated_errors():
        batch = await server.client.batches.retrieve(name)
    files = tuple(file for file in (batch.output_file_id, batch.error_file_id) if file)
    problem = next(iter(batch.errors.data or []), None) if batch.errors else None
    code, error = (problem.code or "", problem.message or "") if problem else ("", "")
    return BatchState(batch.status, files, code, error)
