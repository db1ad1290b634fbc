"""Errors that clients get: a status, and a plain sentence as JSON."""

import math
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse


class RefusedError(Exception):
    """
    A request that is not carried out.

    Args:
        status (`int`): Status of HTTP.
        message (`str`): What was got, what was expected and what to do.
        headers (`Mapping[str, str]`, *optional*): Headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse({"error": self.message}, self.status, self.headers)


def busy(seconds: float, what: str = "The server is busy") -> RefusedError:
    """Refuse a request for now: 429."""
    wait = min(60, max(1, math.ceil(seconds)))
    return RefusedError(429, f"{what}. Try again in {wait} s.", {"Retry-After": str(wait)})


class Slots:
    """A number of things that may go on at a time. The next one is refused."""

    def __init__(self, count: int, what: str):
        self.free, self.what = count, what

    @contextmanager
    def take(self):
        """Hold a slot during a `with` block. Raises a [`RefusedError`] (429) if there is none."""
        if self.free < 1:
            raise busy(1, self.what)
        self.free -= 1
        try:
            yield
        finally:
            self.free += 1


def sentence(error: ValidationError) -> str:
    """The first fault of a request in one sentence."""
    fault: Any = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, fault["loc"])) or "the request"
    if fault["type"] == "extra_forbidden":
        return f"There is no field {where!r}. /openapi.json lists the fields."
    if fault["type"] == "missing":
        return f"The field {where!r} is missing. /openapi.json lists the fields."
    reason = fault["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{where}: {reason[0].lower()}{reason[1:]}."
