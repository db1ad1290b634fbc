"""Count the HTTP attempts that a server may charge for, including the retries inside of the `openai` client.

The client does not report its retries. Hooks of its HTTP client see every attempt, and count it for the request of the
current context.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "token_limit_exceeded")  # the last: of a batch


@dataclass
class Attempts:
    """The number of attempts at one request that the server may charge for: those sent and not rejected."""

    on_response: Callable[[bool], None] | None
    chargeable: int = 0


current_attempts: ContextVar[Attempts | None] = ContextVar("attempts", default=None)
# Called before the headers of an attempt are sent, with the number of attempts that may be charged by then
on_send: ContextVar[Callable[[int], None] | None] = ContextVar("on_send", default=None)


async def count_request(request: httpx.Request) -> None:
    """Count an attempt once its headers are sent: a connection that was never made costs nothing."""
    if attempts := current_attempts.get():

        async def trace(event: str, info: dict[str, Any]) -> None:
            if event.endswith("send_request_headers.started"):
                if report := on_send.get():
                    report(attempts.chargeable + 1)
                attempts.chargeable += 1

        request.extensions = {**request.extensions, "trace": trace}


async def check_response(response: httpx.Response) -> None:
    """Uncount a rejected attempt, report the response, and prevent a retry if the quota is exhausted."""
    rate_limited = response.status_code == 429
    if attempts := current_attempts.get():
        attempts.chargeable -= response.status_code >= 400
        if attempts.on_response:
            attempts.on_response(rate_limited)
    if rate_limited:
        content = await response.aread()
        if any(code.encode() in content for code in QUOTA):
            response.headers["x-should-retry"] = "false"
