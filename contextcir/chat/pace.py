"""The pace of a run that asks a server many things: how many at a time, how far it is, how long it will take."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

WINDOW = 20  # responses by which a server's load is judged


@dataclass
class Progress:
    """
    How far a run is.

    Args:
        expected (`int`, *optional*): Questions in all, where somebody knows.
        kinds (`Counter`): Questions done, by kind of outcome.
        sent (`int`): Requests that the server has settled in this run, second attempts included.
        prompt_tokens (`int`), completion_tokens (`int`), usd (`float`): Of this run; the dollars with what may have
            been charged without an answer.
    """

    expected: int | None = None
    kinds: Counter = field(default_factory=Counter)
    sent: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Questions with an outcome."""
        return self.kinds.total()

    @property
    def failed(self) -> int:
        """Questions without an answer."""
        return self.done - self.kinds["answered"]

    @property
    def seconds_left(self) -> float | None:
        """At the mean pace so far of requests that were sent; `None` where that cannot be told."""
        if self.expected is None or not self.sent:
            return None
        return max(self.expected - self.done, 0) * (time.monotonic() - self.started) / self.sent


class Limit:
    """
    How many requests may be on their way: fewer while the server turns many down, more again when it does not.

    A server with much to do turns down the odd request whatever is sent (the client tries that one again), so only a
    window with more than a quarter turned down halves the number; one with less than a tenth adds a quarter.
    """

    def __init__(self, most: int):
        self.most = self.now = most
        self._semaphore = asyncio.Semaphore(most)
        self._withheld = 0  # places to be taken away as they become free
        self._responses = self._turned_down = 0

    async def __aenter__(self):
        await self._semaphore.acquire()

    async def __aexit__(self, *_):
        if self._withheld:
            self._withheld -= 1
        else:
            self._semaphore.release()

    def note(self, turned_down: bool) -> None:
        """Judge by another response."""
        self._responses += 1
        self._turned_down += turned_down
        if self._responses == WINDOW:
            share = self._turned_down / WINDOW
            self._responses = self._turned_down = 0
            if share > 0.25:
                self._set(max(self.now // 2, 1))
            elif share < 0.1:
                self._set(min(self.now + max(self.now // 4, 1), self.most))

    def _set(self, number: int) -> None:
        self._withheld += self.now - number
        self.now = number
        while self._withheld < 0:
            self._withheld += 1
            self._semaphore.release()
