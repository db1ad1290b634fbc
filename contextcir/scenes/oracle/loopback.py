"""As much of HTTP/1.1 as clients of chat servers speak, on loopback: keep-alive, and bodies of a stated length.

One thread and one event loop serve everything: an answer that waits costs nothing, and thousands of connections do not
take turns for the interpreter. Left out: chunked bodies, compression, TLS, other hosts than 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any


@dataclass(frozen=True)
class Call:
    """What a client sent; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What it gets back. `delivered` is called once the reply has left, and not where the client had gone."""

    status: int
    body: bytes | dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    delivered: Callable[[], None] = lambda: None


def failure(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> Reply:
    """An error as OpenAI's servers word it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return Reply(status, {"error": {"message": message, "type": kind, "param": None, "code": code}}, headers or {})


class LoopbackServer:
    """
    Serves as long as the `with` block lasts.

    Args:
        handle (callable): Takes a [`Call`] and gives a [`Reply`], or `None` to hang up without a word.
        port (`int`, *optional*): A free one by default.
    """

    def __init__(self, handle: Callable[[Call], Awaitable[Reply | None]], port: int = 0):
        self.handle = handle
        self.port = port
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LoopbackServer:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.result()  # raises here if the port is taken
        return self

    def __exit__(self, *error) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._serve(started))  # at its end, it cancels the connections that are still open
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)  # in the thread that waits

    async def _serve(self, started: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._converse, "127.0.0.1", self.port, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        started.set_result(None)
        await self._stop.wait()
        server.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while call := await _receive(reader):
                reply = await self.handle(call) if isinstance(call, Call) else call
                if reply is None or reader.at_eof():
                    break
                writer.write(_encode(reply))
                await writer.drain()
                reply.delivered()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError, OSError, ValueError):
            pass  # the client has gone, does not speak HTTP, or the server stops
        finally:
            writer.close()


async def _receive(reader: asyncio.StreamReader) -> Call | Reply:
    """The next call of a connection, or what to reply where it is none."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    if "transfer-encoding" in headers:
        return failure(411, "send a body of a stated length (Content-Length)", "length_required")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split(" ", 2)
    return Call(method, path.partition("?")[0], headers, body)


def _encode(reply: Reply) -> bytes:
    body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    kind = "application/octet-stream" if isinstance(reply.body, bytes) else "application/json"
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), **reply.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n{lines}\r\n".encode("latin-1") + body
