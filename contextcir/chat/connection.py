"""The HTTP connection to a chat server. Only this file imports the `openai` client.

The client retries on its own (408, 409, 429, 5xx, time-outs, Retry-After up to two minutes). Here each of its attempts
is bounded in time and in bytes, counted, and repeated only if that can help. A request never leaves the server that it
is for, and a key not the machine unencrypted.
"""

from __future__ import annotations

import email.utils
import ipaddress
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import anyio
import httpx2
import openai

from contextcir.chat.attempts import current_attempts, on_send
from contextcir.chat.errors import kind_of, read_error
from contextcir.chat.exchange import ChatStop
from contextcir.chat.json_text import read_json
from contextcir.chat.plain_text import printable
from contextcir.runtime.secrets import redact

CONNECT_SECONDS = 10.0
AZURE = (".azure.com",)  # hosts that take a key in the header api-key only
MAX_BYTES = 16_000_000  # of the response to one request
TEMPORARY = ("busy", "other")  # kinds of errors that another attempt may not meet


class Response(NamedTuple):
    """The response to a request: its status, the JSON or text of its body, and the seconds of its Retry-After."""

    status: int
    payload: Any
    seconds: float | None = None


class ConnectionLost(Exception):  # noqa: N818  (an outcome of the request)
    """A request got no response, and may have been charged."""


class Rejected(Exception):  # noqa: N818
    """A request got an error as its response."""

    def __init__(self, response: Response):
        super().__init__(response.status)
        self.response = response


class _Client(openai.DefaultAsyncHttpxClient):
    """An HTTP client whose attempts at chat requests take a bounded time and bring a bounded number of bytes."""

    attempt_seconds = math.inf
    azure_key = ""  # sent in a header of its own, in place of the usual one

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request. Only those that are counted are bounded: the files of batches may be large and slow."""
        if self.azure_key:
            request.headers.pop("Authorization", None)
            request.headers["api-key"] = self.azure_key
        attempts = current_attempts.get()
        if attempts is None:
            return await super().send(request, **options)

        async def trace(event: str, info: dict[str, Any]) -> None:
            if event.endswith("send_request_headers.started"):  # a connection that was never made costs nothing
                if report := on_send.get():
                    report(attempts.chargeable + 1)
                attempts.chargeable += 1

        request.extensions = {**request.extensions, "trace": trace}
        try:
            with anyio.fail_after(self.attempt_seconds):
                response = await self._receive(request, options)
        except TimeoutError:
            raise httpx2.ReadTimeout("the attempt took too long", request=request) from None
        attempts.note(response.status_code)
        if response.status_code >= 400:
            error = read_error(response.status_code, read_json(response.content, response.charset_encoding))
            if kind_of(error) not in TEMPORARY:
                response.headers["x-should-retry"] = "false"
        return response

    async def _receive(self, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
        response = await super().send(request, **{**options, "stream": True})
        try:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise httpx2.ReadError(f"the response is larger than {MAX_BYTES:,} bytes", request=request)
        finally:
            await response.aclose()
        dropped = ("content-encoding", "content-length", "transfer-encoding")  # those of the content before decoding
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in dropped]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(content), request=request)


async def _refuse_other_hosts(response: httpx2.Response) -> None:
    """Follow no redirection of a request with content to another address, which would get prompts and images."""
    if response.has_redirect_location and response.request.method != "GET":
        if attempts := current_attempts.get():
            attempts.chargeable -= 1
        old, new = response.request.url, response.request.url.join(response.headers["location"])
        if (old.scheme, old.host, old.port) != (new.scheme, new.host, new.port):
            there = printable(str(new.copy_with(userinfo=b"", query=None, fragment=None)))
            raise ChatStop(
                "address",
                f"{old.scheme}://{old.netloc.decode().rpartition('@')[2]} sends its requests on to {there}. Nothing"
                " was sent there. If you trust that server, give its address as the base_url.",
            )


def connect(
    base_url: str,
    key: str,
    *,
    timeout: float,
    max_retries: int,
    headers: Mapping[str, str],
    private: bool,
    insecure: bool,
) -> openai.AsyncOpenAI:
    """
    Make a client. Query parameters of the address, such as `?api-version=2024-10-21`, go with each request.

    Args:
        base_url (`str`): As for a [`~contextcir.chat.server.ChatServer`].
        key (`str`): Empty if there is none.
        timeout (`float`): Seconds of an attempt.
        max_retries (`int`): Attempts after the first.
        headers (`Mapping[str, str]`): Further headers of each request.
        private (`bool`): Whether a request holds a secret, such as the key.
        insecure (`bool`): Whether a secret may be sent to another machine unencrypted.

    Raises:
        [`~contextcir.chat.exchange.ChatStop`]: A secret would cross a network unencrypted.
    """
    parts = urlsplit(base_url)
    if private and parts.scheme == "http" and not _is_loopback(parts.hostname or "") and not insecure:
        raise ChatStop(
            "key",
            f"The key would be sent to {parts.hostname} unencrypted. Use https, leave the key out (it may come from"
            " OPENAI_API_KEY), or allow it with --insecure.",
        )
    timeouts = openai.Timeout(timeout, connect=CONNECT_SECONDS)
    http = _Client(timeout=timeouts, event_hooks={"response": [_refuse_other_hosts]})
    http.attempt_seconds = timeout
    if parts.hostname and parts.hostname.endswith(AZURE):
        http.azure_key = key
    return openai.AsyncOpenAI(
        api_key=key or "none",
        base_url=parts._replace(query="", fragment="").geturl(),
        default_query=dict(parse_qsl(parts.query, keep_blank_values=True)),
        default_headers=headers,
        max_retries=max_retries,
        timeout=timeouts,
        http_client=http,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def post(client: openai.AsyncOpenAI, path: str, body: Mapping[str, Any]) -> Response:
    """
    Send JSON and return the response, whatever its status.

    Raises:
        [`~contextcir.chat.exchange.ChatStop`]: There is no server, or it sends requests elsewhere.
        [`ConnectionLost`]: There was no response.
    """
    try:
        with plain_errors(client):  # the client's typed methods spend a millisecond on the images
            return _read(await client.post(path, cast_to=httpx2.Response, body=body))
    except Rejected as error:
        return error.response


@contextmanager
def plain_errors(client: openai.AsyncOpenAI) -> Iterator[None]:
    """Raise errors of the client as a [`Rejected`], a [`ConnectionLost`], or a
    [`~contextcir.chat.exchange.ChatStop`] if there is no server, since then every request would fail."""
    try:
        yield
    except openai.APIStatusError as error:
        raise Rejected(_read(error.response)) from None
    except RecursionError:  # by the client, which parses errors
        raise Rejected(Response(500, "JSON of too many levels")) from None
    except openai.APIConnectionError as error:
        cause = error.__cause__
        if type(cause).__name__.startswith("Connect"):  # ConnectError, ConnectTimeout
            address = redact(str(client.base_url)).rstrip("/")
            raise ChatStop(
                "unreachable", f"There is no server at {address}. Start it, or check the base_url."
            ) from None
        raise ConnectionLost(f"{error} ({type(cause).__name__}: {cause})") from None


def _read(response: httpx2.Response) -> Response:
    payload = read_json(response.content, response.charset_encoding)
    return Response(response.status_code, payload, retry_after(response.headers))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read how many seconds a server asks to wait: a number, or a date."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
