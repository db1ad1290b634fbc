"""Files and batches, as OpenAI's Batch API has them: a file of requests in, files of answers and of errors out.

A batch is worked off in the background, a line at a time, and can be cancelled until it has ended. The first batches
may be made to fail, to expire half-way, or to fail in part ([`Faults`]). Left out: deleting files, and limits of size.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from contextcir.scenes.oracle.faults import Faults
from contextcir.scenes.oracle.loopback import Call, Reply, failure

Respond = Callable[[dict[str, Any]], Reply]
ENDS = ("completed", "failed", "expired", "cancelled")


class Batches:
    """
    Everything under `/v1/files` and `/v1/batches`.

    Args:
        respond (callable): Takes the body of a chat request and gives the reply, at once.
        faults (`Faults`): Which batches go wrong, and how long they wait.
    """

    def __init__(self, respond: Respond, faults: Faults):
        self.respond, self.faults = respond, faults
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(1)
        self._fates = iter(
            ["failed"] * faults.failed_batches
            + ["expired"] * faults.expired_batches
            + ["partly failed"] * faults.partly_failed_batches
        )
        self._tasks: set[asyncio.Task] = set()  # the event loop itself does not keep its tasks alive

    def route(self, call: Call) -> Reply:
        """Answer a call."""
        _, kind, *rest = call.path.strip("/").split("/")  # v1, files or batches, id, what of it
        if call.method == "POST" and not rest:
            body = None if kind == "files" else json.loads(call.body)
            if kind != "files" and not isinstance(body, dict):
                return failure(400, "expected a JSON object", "invalid_request")
            return self._upload(call) if kind == "files" else self._create(body)
        if not rest:
            known = map(self._file, self.files) if kind == "files" else self.batches.values()
            return Reply(200, {"object": "list", "data": list(known), "has_more": False})
        known = self.files if kind == "files" else self.batches
        if rest[0] not in known:
            return failure(404, f"no such {kind}: {rest[0]!r}", "not_found")
        if kind == "files":
            return Reply(200, self.files[rest[0]] if rest[1:] == ["content"] else self._file(rest[0]))
        if rest[1:] == ["cancel"] and self.batches[rest[0]]["status"] in ("validating", "in_progress"):
            self.batches[rest[0]]["status"] = "cancelling"
        return Reply(200, self.batches[rest[0]])

    def ends(self) -> Counter[str]:
        """How the batches that are over have ended -> how many."""
        ends: Counter[str] = Counter()
        for batch in list(self.batches.values()):  # who asks is in another thread
            if (end := batch["status"]) in ENDS:
                ends[f"{end} in part" if end == "completed" and batch["request_counts"]["failed"] else end] += 1
        return ends

    def _upload(self, call: Call) -> Reply:
        """A form with a file (multipart/form-data)."""
        boundary = call.headers.get("content-type", "").partition("boundary=")[2].strip('"').encode()
        for part in call.body.split(b"--" + boundary) if boundary else ():
            head, _, content = part.partition(b"\r\n\r\n")
            if b'name="file"' in head:
                return Reply(200, self._file(self._store(content.removesuffix(b"\r\n"))))
        return failure(400, "expected a form with a part called file", "invalid_file")

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

    def _create(self, order: dict[str, Any]) -> Reply:
        source = order.get("input_file_id")
        if source not in self.files:
            return failure(400, f"no such file: {source!r}", "invalid_file")
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
        task = asyncio.get_running_loop().create_task(self._work(batch, next(self._fates, "completed")))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Reply(200, dict(batch))

    async def _work(self, batch: dict[str, Any], fate: str) -> None:
        await asyncio.sleep(self.faults.batch_seconds)
        try:
            lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines() if line.strip()]
            ids = [line["custom_id"] for line in lines]
            if not lines or len(set(ids)) < len(ids):
                raise ValueError("it has no lines, or a custom_id twice")
            if any(line["url"] != batch["endpoint"] or not isinstance(line["body"], dict) for line in lines):
                raise ValueError("a line has no body, or another url than the batch's endpoint")
        except (KeyError, TypeError, ValueError) as error:
            return self._fail(batch, "invalid_json_line", f"the input file cannot be used: {error!r}")
        if fate == "failed":
            return self._fail(batch, "token_limit_exceeded", "Enqueued token limit reached. Try again later.")
        batch["request_counts"]["total"] = len(lines)
        if batch["status"] == "validating":
            batch["status"] = "in_progress"
        outputs, errors = [], []
        for number, line in enumerate(lines):
            await asyncio.sleep(0)  # others are served in between
            if batch["status"] == "cancelling" or (fate == "expired" and number >= len(lines) // 2):
                break
            broken = fate == "partly failed" and number % 3 == 0
            reply = failure(500, "The server had an error.", "server_error") if broken else self.respond(line["body"])
            (outputs if reply.status == 200 else errors).append(_result(line["custom_id"], reply))
            batch["request_counts"]["completed" if reply.status == 200 else "failed"] += 1
            reply.delivered()
        ended = {"cancelling": "cancelled"}.get(batch["status"], "expired" if fate == "expired" else "completed")
        if ended == "expired":
            errors += [_expired(custom_id) for custom_id in ids[len(outputs) + len(errors) :]]
        for kind, results in (("output_file_id", outputs), ("error_file_id", errors)):
            if results:
                batch[kind] = self._store("".join(json.dumps(result) + "\n" for result in results).encode())
        batch["status"] = ended
        batch[f"{ended}_at"] = int(time.time())

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
