"""A small HTTP/1.1 server on loopback for clients of chat servers, with keep-alive and bodies of known length.

One thread with one event loop serves all connections, so waiting answers cost nothing and thousands of connections do
not compete for the interpreter. Left out: chunked bodies, compression, TLS, hosts other than 127.0.0.1.
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

PIECES = 20  # of a reply that is sent slowly


@dataclass(frozen=True)
class Call:
    """A request of a client. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """A reply, sent in pieces over `drip` seconds. `delivered` is called after it was sent, unless the client had
    disconnected."""

    status: int
    body: bytes | dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    delivered: Callable[[], None] = lambda: None
    drip: float = 0.0


def failure(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> Reply:
    """Return an error in the format of OpenAI's servers."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return Reply(status, {"error": {"message": message, "type": kind, "param": None, "code": code}}, headers or {})


class LoopbackServer:
    """
    A server that runs while its `with` block does.

    Args:
        handle (`Callable`): Returns a [`Reply`] for a [`Call`], or `None` to disconnect without a reply.
        port (`int`, *optional*): The port; 0 (default) means a free one, which is then in `port`.
    """

    def __init__(self, handle: Callable[[Call], Awaitable[Reply | None]], port: int = 0):
        self.handle = handle
        self.port = port

    def __enter__(self) -> LoopbackServer:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.result()  # raises here if the port is taken
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._serve(started))  # cancels open connections at its end
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)  # raised in the waiting thread

    async def _serve(self, started: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._handle_connection, "127.0.0.1", self.port, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        started.set_result(None)
        await self._stop.wait()
        server.close()

    async def _handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while call := await _receive(reader):
                reply = await self.handle(call) if isinstance(call, Call) else call
                if reply is None or reader.at_eof():
                    break
                await _send(writer, reply)
                reply.delivered()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError, OSError, ValueError):
            pass  # the client disconnected or sent no HTTP, or the server stops
        finally:
            writer.close()


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
    content = _encode(reply)
    pieces = PIECES if reply.drip else 1
    size = len(content) // pieces + 1
    for start in range(0, len(content), size):
        writer.write(content[start : start + size])
        await writer.drain()
        await asyncio.sleep(reply.drip / pieces)


async def _receive(reader: asyncio.StreamReader) -> Call | Reply:
    """Return the next call of a connection, or the error to reply if its body has no known length."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    if "transfer-encoding" in headers:
        return failure(411, "Got transfer-encoding, expected a Content-Length.", "length_required")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split(" ", 2)
    return Call(method, path.partition("?")[0], headers, body)


def _encode(reply: Reply) -> bytes:
    body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    kind = "application/octet-stream" if isinstance(reply.body, bytes) else "application/json"
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), **reply.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n{lines}\r\n".encode("latin-1") + body
