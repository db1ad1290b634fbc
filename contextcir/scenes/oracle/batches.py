"""The Batch API of OpenAI: a file of requests in, files of answers and of errors out.

A batch is processed in the background, line by line, and can be cancelled until it has ended. The first batches can be
made to fail, to expire half-way, or to fail in part ([`Faults`]). Left out: deletion of files, and size limits.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from contextcir.scenes.oracle.faults import Faults
from contextcir.scenes.oracle.loopback import Call, Reply, failure
from contextcir.scenes.oracle.quirks import DAMAGES

Respond = Callable[[dict[str, Any]], Reply]
ENDS = ("completed", "failed", "expired", "cancelled")


class Batches:
    """
    The endpoints `/v1/files` and `/v1/batches`.

    Args:
        respond (`Callable`): Returns the reply for the body of a chat request, without delay.
        faults (`Faults`): Faulty batches, and seconds before a batch starts.
    """

    def __init__(self, respond: Respond, faults: Faults):
        self.respond, self.faults = respond, faults
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(1)
        self._lines = 0
        self._planned_ends = iter(
            ["failed"] * faults.failed_batches
            + ["expired"] * faults.expired_batches
            + ["partly failed"] * faults.partly_failed_batches
        )
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop keeps weak references only

    def route(self, call: Call) -> Reply:
        """Answer a call."""
        _, kind, *rest = call.path.strip("/").split("/")  # v1, files or batches, id, action
        if call.method == "POST" and not rest:
            return self._upload(call) if kind == "files" else self._create(json.loads(call.body))
        if not rest:
            listed = [self._file(name) for name in self.files] if kind == "files" else list(self.batches.values())
            return Reply(200, {"object": "list", "data": listed, "has_more": False})
        name, action = rest[0], rest[1:]
        if name not in (self.files if kind == "files" else self.batches):
            return failure(404, f"There are no {kind} with the id {name!r}.", "not_found")
        if kind == "files":
            return Reply(200, self.files[name] if action == ["content"] else self._file(name))
        if action == ["cancel"] and self.batches[name]["status"] in ("validating", "in_progress"):
            self.batches[name]["status"] = "cancelling"
        return Reply(200, self.batches[name])

    def ends(self) -> Counter[str]:
        """Count the finished batches by their end."""
        ends: Counter[str] = Counter()
        for batch in list(self.batches.values()):  # a copy, because the caller is in another thread
            if (end := batch["status"]) in ENDS:
                ends[f"{end} in part" if end == "completed" and batch["request_counts"]["failed"] else end] += 1
        return ends

    def _upload(self, call: Call) -> Reply:
        """Store the file of a form (multipart/form-data)."""
        boundary = call.headers.get("content-type", "").partition("boundary=")[2].strip('"').encode()
        for part in call.body.split(b"--" + boundary) if boundary else ():
            head, _, content = part.partition(b"\r\n\r\n")
            if b'name="file"' in head:
                return Reply(200, self._file(self._store(content.removesuffix(b"\r\n"))))
        return failure(400, "Expected a form with a part named file.", "invalid_file")

    def _store(self, content: bytes) -> str:
        name = f"file-{next(self._numbers)}"
        self.files[name] = content
        return name

    def _file(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "file",
            "bytes": len(self.files[name]),
            "created_at": 0,
            "filename": f"{name}.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    def _create(self, order: Any) -> Reply:
        if not isinstance(order, dict):
            return failure(400, f"Got {type(order).__name__}, expected a JSON object.", "invalid_request")
        source = order.get("input_file_id")
        if source not in self.files:
            return failure(400, f"There is no file with the id {source!r}.", "invalid_file")
        name = f"batch_{next(self._numbers)}"
        batch = {
            "id": name,
            "object": "batch",
            "endpoint": order.get("endpoint"),
            "errors": None,
            "input_file_id": source,
            "completion_window": order.get("completion_window"),
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": int(time.time()),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": order.get("metadata"),
        }
        self.batches[name] = batch
        task = asyncio.get_running_loop().create_task(self._process(batch, next(self._planned_ends, "completed")))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Reply(200, dict(batch))

    async def _process(self, batch: dict[str, Any], planned_end: str) -> None:
        await asyncio.sleep(self.faults.batch_seconds)
        try:
            lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines() if line.strip()]
            ids = [line["custom_id"] for line in lines]
            if not lines or len(set(ids)) < len(ids):
                raise ValueError("it has no lines, or a custom_id twice")
            if any(line["url"] != batch["endpoint"] or not isinstance(line["body"], dict) for line in lines):
                raise ValueError("a line has no body, or another url than the endpoint of the batch")
        except (KeyError, TypeError, ValueError) as error:
            return self._fail(batch, "invalid_json_line", f"The input file is invalid: {error!r}.")
        running = [one for one in self.batches.values() if one is not batch and one["status"] == "in_progress"]
        enqueued = len(lines) + sum(one["request_counts"]["total"] for one in running)
        if planned_end == "failed" or 0 < self.faults.most_enqueued < enqueued:
            return self._fail(batch, "token_limit_exceeded", "Enqueued token limit reached. Try again later.")
        batch["request_counts"]["total"] = len(lines)
        if batch["status"] == "validating":
            batch["status"] = "in_progress"
        outputs: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for number, line in enumerate(lines):
            await asyncio.sleep(0)  # lets other requests run
            if batch["status"] == "cancelling" or (planned_end == "expired" and number >= len(lines) // 2):
                break
            fails = planned_end == "partly failed" and number % 3 == 0
            reply = failure(500, "The server had an error.", "server_error") if fails else self.respond(line["body"])
            (outputs if reply.status == 200 else errors).append(_result(line["custom_id"], reply))
            batch["request_counts"]["completed" if reply.status == 200 else "failed"] += 1
            reply.delivered()
        end = "expired" if planned_end == "expired" else "completed"
        if batch["status"] == "cancelling":
            end = "cancelled"
        if end == "expired":
            errors += [_expired(custom_id) for custom_id in ids[len(outputs) + len(errors) :]]
        for kind, results in (("output_file_id", outputs), ("error_file_id", errors)):
            if results:
                batch[kind] = self._store(b"".join(self._line(result) + b"\n" for result in results))
        batch["status"] = end
        batch[f"{end}_at"] = int(time.time())

    def _line(self, result: dict[str, Any]) -> bytes:
        """A line of a file of answers, damaged at the rate of such lines. It is drawn again for each batch."""
        self._lines += 1
        rng = random.Random(f"{self._lines} {result['custom_id']}")
        damaged = rng.random() < self.faults.damaged_lines
        return rng.choice(DAMAGES)(result) if damaged else json.dumps(result).encode()

    @staticmethod
    def _fail(batch: dict[str, Any], code: str, message: str) -> None:
        batch["errors"] = {"object": "list", "data": [{"code": code, "message": message, "line": None, "param": None}]}
        batch["status"] = "failed"


def _result(custom_id: str, reply: Reply) -> dict[str, Any]:
    response = {"status_code": reply.status, "request_id": reply.headers.get("x-request-id", ""), "body": reply.body}
    return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": response, "error": None}


def _expired(custom_id: str) -> dict[str, Any]:
    error = {"code": "batch_expired", "message": "This request could not be executed before the batch expired."}
    return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": None, "error": error}
