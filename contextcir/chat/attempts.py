"""Count the HTTP attempts that a server may charge for, including the retries inside of the `openai` client.

The client does not report its retries. Its HTTP connection (`contextcir/chat/connection.py`) sees every attempt, and
counts it for the request of the current context.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Attempts:
    """The number of attempts at one request that the server may charge for: those sent and not rejected."""

    on_response: Callable[[bool], None] | None
    chargeable: int = 0

    def note(self, status: int) -> None:
        """Uncount a rejected attempt, and report the response."""
        self.chargeable -= status >= 400
        if self.on_response:
            self.on_response(status == 429)


current_attempts: ContextVar[Attempts | None] = ContextVar("attempts", default=None)
# Called before the headers of an attempt are sent, with the number of attempts that may be charged by then
on_send: ContextVar[Callable[[int], None] | None] = ContextVar("on_send", default=None)
