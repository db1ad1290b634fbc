"""What the client's attempts at a request may cost: those that were sent and not turned down, retried ones included.

The client retries by itself and tells nobody. The hooks of its HTTP client see each attempt; what they count belongs
to the request that is in the context.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "token_limit_exceeded")  # the last: of a batch


@dataclass
class Attempts:
    """The client's attempts at one request that the server may charge: those sent and not turned down."""

    on_response: Callable[[bool], None] | None
    chargeable: int = 0


current_attempts: ContextVar[Attempts | None] = ContextVar("attempts", default=None)


async def count_request(request) -> None:
    """Counts an attempt once it is on its way: a connection that was never made costs nothing."""
    if attempts := current_attempts.get():

        async def trace(event: str, info: dict[str, Any]) -> None:
            attempts.chargeable += event.endswith("send_request_headers.started")

        request.extensions = {**request.extensions, "trace": trace}


async def judge_response(response) -> None:
    """Who is turned down pays nothing. A 429 is retried by the client, and in vain where the quota is exhausted."""
    attempts = current_attempts.get()
    if attempts and response.status_code >= 400:
        attempts.chargeable -= 1
    if attempts and attempts.on_response:
        attempts.on_response(response.status_code == 429)
    if response.status_code != 429:
        return
    said = await response.aread()
    if any(code.encode() in said for code in QUOTA):
        response.headers["x-should-retry"] = "false"
