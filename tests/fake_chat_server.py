"""A chat server on loopback for tests: it answers as told, misbehaves on request, and remembers what it was sent.

`faults` is a queue of replies that go out before anything else; then `answer`, a function of the request's body, is
asked. Batches are answered line by line by the same two, whenever they are looked at; `batch_ends` says how they end.
"""

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """A response: `body` is sent as JSON, or as it is where it is text; `cut` closes the connection in its midst, and
    `drip` sends it in ten pieces with so many seconds between them."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    drip: float = 0.0


def completion(content="fine", model="fake", finish="stop", refusal=None, usage=(10, 5)) -> Reply:
    """A chat completion."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    body = {"id": "c", "object": "chat.completion", "model": model, "choices": []}
    body["choices"].append({"index": 0, "message": message, "finish_reason": finish})
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Reply(body=body)


def error(status: int, message="no", code=None, **options) -> Reply:
    """An error in OpenAI's form."""
    return Reply(status, {"error": {"message": message, "code": code, "type": "error"}}, **options)


def user_text(body) -> str:
    """The text of the user's message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


class FakeChatServer:
    """`with FakeChatServer() as server:`, then `server.url`."""

    def __init__(self, answer=lambda body: completion("echo " + user_text(body))):
        self.answer = answer
        self.faults: deque[Reply] = deque()
        self.bodies: list[dict] = []  # of chat completions, single and in batches
        self.keys: set[str | None] = set()
        self.paths: list[str] = []  # with queries
        self.headers: list[dict[str, str]] = []
        self.lost_batches = 0  # of the next ones
        self.batch_ends: deque[tuple[str, int]] = deque()  # (status, lines answered) of the next batches
        self.batch_error = None  # of batches that end as "failed"
        self.most_enqueued = None  # requests of batches in progress, above which a batch fails
        self.damage = lambda lines: lines  # of files of answers
        self.looks = 0  # at a batch before it is done
        self.batches: dict[str, dict] = {}
        self.files: dict[str, bytes] = {}
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def __enter__(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self):  # noqa: N802
                outer._respond(self, b"")

            def do_POST(self):  # noqa: N802
                outer._respond(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

        self._http = Server(("127.0.0.1", 0), Handler)
        self._http.handle_error = lambda *_: None  # clients that go away are what some tests are about
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    # --- HTTP --------------------------------------------------------------------------------------------------------

    def _respond(self, handler, content: bytes) -> None:
        self.keys.add(handler.headers.get("Authorization"))
        self.paths.append(handler.path)
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        route = handler.path.split("?")[0].removeprefix("/v1/").split("/")
        if route == ["chat", "completions"]:
            reply = self._complete(json.loads(content))
        elif route == ["files"]:
            reply = self._upload(content)
        elif route[0] == "files":
            reply = Reply(body=self.files[route[1]].decode("latin-1"))
        elif handler.command == "POST":
            reply = self._create_batch(json.loads(content))
        elif len(route) == 1:
            batches = [self._public(batch) for batch in self.batches.values()]
            reply = Reply(body={"object": "list", "data": batches, "has_more": False})
        else:
            known = self.batches.get(route[1])
            reply = Reply(body=self._look(known)) if known else error(404, f"no batch {route[1]}")
        self._send(handler, reply)

    def _send(self, handler, reply: Reply) -> None:
        body = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        time.sleep(reply.delay)
        handler.send_response(reply.status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        body = body[: len(body) // 2] if reply.cut else body
        piece = len(body) // 10 + 1 if reply.drip else len(body) or 1
        for start in range(0, len(body), piece):
            handler.wfile.write(body[start : start + piece])
            time.sleep(reply.drip)
        handler.close_connection = reply.cut

    def _complete(self, body) -> Reply:
        with self._lock:
            self.bodies.append(body)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            reply = self.faults.popleft() if self.faults else None
        try:
            reply = reply or self.answer(body)
            time.sleep(reply.delay)
            return replace(reply, delay=0.0)
        finally:
            with self._lock:
                self.at_once -= 1

    # --- batches -----------------------------------------------------------------------------------------------------

    def _upload(self, form: bytes) -> Reply:
        name = f"file-{len(self.files)}"
        start = form.index(b"{")  # the first line of the file in its form
        self.files[name] = form[start : form.index(b"\r\n", start)]
        return Reply(body={"id": name, "object": "file", "purpose": "batch"})

    def _create_batch(self, body) -> Reply:
        batch = {"id": f"batch-{len(self.batches)}", "object": "batch", "status": "in_progress", "created_at": 0}
        batch |= {"input_file_id": body["input_file_id"], "metadata": body["metadata"], "looks": self.looks}
        batch |= {"endpoint": body["endpoint"], "completion_window": body["completion_window"]}
        batch["end"] = self.batch_ends.popleft() if self.batch_ends else ("completed", None)
        if self.most_enqueued is not None and self._enqueued(batch) > self.most_enqueued:
            batch["end"], batch["looks"] = ("failed", None), 0
            self.batch_error = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached."}
        self.batches[batch["id"]] = batch
        if self.lost_batches:  # made, and nobody hears of it
            self.lost_batches -= 1
            return error(500)
        return Reply(body=self._public(batch))

    def _enqueued(self, new) -> int:
        running = [batch for batch in self.batches.values() if batch["status"] == "in_progress"]
        return sum(len(self.files[batch["input_file_id"]].splitlines()) for batch in (*running, new))

    def _public(self, batch):
        return {key: value for key, value in batch.items() if key not in ("looks", "end")}

    def _look(self, batch):
        batch["looks"] -= 1
        if batch["looks"] < 0 and batch["status"] == "in_progress":
            self._finish(batch, *batch["end"])
        return self._public(batch)

    def _finish(self, batch, status: str, answered: int | None) -> None:
        requests = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        good, bad = [], []
        if status != "failed":
            for place, request in enumerate(requests):
                if answered is not None and place >= answered:
                    late = {"code": "batch_expired", "message": "too late"}
                    bad += [{"custom_id": request["custom_id"], "response": None, "error": late}] * (
                        status == "expired"
                    )
                    continue
                reply = self._complete(request["body"])
                response = {"status_code": reply.status, "request_id": "r", "body": reply.body}
                line = {"custom_id": request["custom_id"], "response": response, "error": None}
                (good if reply.status == 200 else bad).append(line)
        elif self.batch_error:
            batch["errors"] = {"object": "list", "data": [self.batch_error]}
        for name, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                batch[name] = f"file-{len(self.files)}"
                written = [json.dumps(line).encode() for line in lines]
                self.files[batch[name]] = b"\n".join(self.damage(written)) + b"\n"
        batch["status"] = status
