"""What passes between who asks and who answers: a request, one of six outcomes, or a stop that says why to stop."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

OUTCOMES = ("answered", "refused", "filtered", "cut", "malformed", "failed")
STOPS = ("key", "model", "quota", "budget", "unreachable", "batch", "interrupted")


class ChatStop(RuntimeError):  # noqa: N818  (not a fault of the program: the run ends here and can go on later)
    """What makes going on pointless. `reason` is one of `STOPS`; `usd` is what the server charged all the same."""

    exit_code = 3  # of commands that end with it

    def __init__(self, reason: str, message: str, usd: float = 0.0):
        super().__init__(message)
        self.reason = reason
        self.usd = usd


@dataclass(frozen=True)
class ChatRequest:
    """
    One question.

    Args:
        role (`str`): Stage or role, such as "reference_objects" or "verifier", for reports; not part of the id.
        prompt (`str`): The user's text.
        images (`tuple`, *optional*): Shown before the text, in order; anything that
            [`~contextcir.data.images.load_image`] reads.
        schema (`type[pydantic.BaseModel]`, *optional*): What the answer must fit; free text by default.
        system (`str`, *optional*): The system prompt.
        attempt (`int`, defaults to 0): A question asked again is a request of its own. From 1 on, the schema is also
            spelt out in the prompt.
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
    What became of a request.

    Args:
        kind (`str`): One of `OUTCOMES`: "answered"; "refused" by the model; "filtered" by the server; "cut" at
            `max_tokens`; "malformed", which does not fit the schema; "failed" on the way.
        value (`BaseModel` or `str`, *optional*): An instance of the schema, or the text. Set where answered.
        text (`str`): The raw answer.
        error (`str`): What went wrong, without secrets.
        model (`str`): Who the server says answered.
        prompt_tokens (`int`), completion_tokens (`int`): As the server counts them.
        usd (`float`): By the server's count of tokens or, where it counts none, the bound.
        lost_usd (`float`): A bound of what attempts without an answer (time-outs) may have cost beside that.
        request_id (`str`): The id.
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


Ask = Callable[[ChatRequest], Awaitable[Outcome]]
