"""Requests to a chat model, their outcomes, and the contract of a backend that answers them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

OUTCOMES = ("answered", "refused", "filtered", "cut", "malformed", "failed")


class ChatStop(RuntimeError):  # noqa: N818  (not a program error: the run ends here and can be continued later)
    """A run must end early. `reason` is "key", "model", "address", "images", "option", "quota", "busy", "budget",
    "unreachable", "failing", "batch" or "interrupted"; `usd` is what the server charged all the same."""

    exit_code = 3  # of commands that end with it

    def __init__(self, reason: str, message: str, usd: float = 0.0):
        super().__init__(message)
        self.reason = reason
        self.usd = usd


@dataclass(frozen=True)
class ChatRequest:
    """
    One request to a chat model.

    Args:
        role (`str`): Stage or role, such as "reference_objects" or "verifier", for reports; not part of the id.
        prompt (`str`): The user's text.
        images (`tuple`, *optional*): Images placed before the text, in order; anything that
            [`~contextcir.data.images.load_image`] reads.
        schema (`type[pydantic.BaseModel]`, *optional*): The schema of the answer; free text by default.
        system (`str`, *optional*): The system prompt.
        attempt (`int`, defaults to 0): Number of earlier attempts. Each attempt is a request of its own; from 1 on,
            the prompt includes the schema.
    """

    role: str
    prompt: str
    images: tuple[Any, ...] = ()
    schema: type[BaseModel] | None = None
    system: str = ""
    attempt: int = 0


@dataclass(frozen=True)
class Outcome:
    """
    The outcome of a request.

    Args:
        kind (`str`): One of `OUTCOMES`: "answered"; "refused" by the model; "filtered" by the server; "cut" at
            `max_tokens`; "malformed", which does not fit the schema; "failed" for any other reason.
        value (`BaseModel` or `str`, *optional*): An instance of the schema, or the text; set if answered.
        text (`str`): The raw answer.
        error (`str`): The error message in one line that is safe to print, without secrets.
        model (`str`): The model that answered, as the server calls it.
        prompt_tokens (`int`), completion_tokens (`int`): As counted by the server.
        usd (`float`): The cost, from the server's token counts, or its upper bound if the server gives none.
        lost_usd (`float`): Upper bound of what attempts without an answer (time-outs) may have cost in addition.
        request_id (`str`): The id.
        recalled (`bool`): Whether it was read from a ledger, so that nothing was sent and nothing paid.
        doubtful (`bool`): Whether the server's token counts cannot be believed, so that `usd` is the upper bound.
    """

    kind: str
    value: BaseModel | str | None = None
    text: str = ""
    error: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    lost_usd: float = 0.0
    request_id: str = ""
    recalled: bool = False
    doubtful: bool = False


Ask = Callable[[ChatRequest], Awaitable[Outcome]]


class ChatBackend(Protocol):
    """
    The contract of a chat backend, such as [`~contextcir.chat.server.ChatServer`]: it answers the requests of a
    [`~contextcir.chat.dispatch.Dispatcher`].
    """

    @property
    def settings(self) -> dict[str, Any]:
        """`dict[str, Any]`: Settings that all answers in one output folder share, as JSON values."""
        ...

    def request_id(self, request: ChatRequest) -> str:
        """
        Compute a digest of everything that the answer depends on. Equal ids share one answer. Runs in a thread.

        Raises:
            [`~contextcir.data.images.ImageError`]: An image cannot be read.
        """
        ...

    def estimate(self, request: ChatRequest) -> float:
        """Compute an upper bound of the cost of one attempt, in USD; 0 if it is free."""
        ...

    async def complete(self, request: ChatRequest, on_response: Callable[[bool], None] | None = None) -> Outcome:
        """
        Answer a request. Errors that concern only this request are outcomes.

        Args:
            request ([`ChatRequest`]): The request.
            on_response (`Callable[[bool], None]`, *optional*): Called at each response of a server, retries included,
                with whether it was rejected because of the load (HTTP status 429).

        Raises:
            [`ChatStop`]: No further request can succeed.
        """
        ...
