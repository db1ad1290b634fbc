"""A limit of concurrent requests that adapts to the load of the server, and pauses in which nothing is sent."""

import asyncio
import time

from contextcir.chat.exchange import ChatStop

MIN_PAUSE = 30.0  # seconds, where a server that has rejected all retries of a request does not say how long
MAX_PAUSE = 600.0  # seconds that a request waits for a busy server, before the run stops
WINDOW = 20  # responses by which the load of a server is judged


class Limit:
    """
    A semaphore that admits fewer requests while the server rejects many, and more again when it does not.

    A busy server rejects a few requests at any rate, and the client retries these. So only a window with more than a
    quarter of rejected requests halves the limit. A window with less than a tenth raises it by a quarter.

    Args:
        most (`int`): The largest number of requests at a time, and the number at the start.
    """

    def __init__(self, most: int):
        self.most = self.now = most
        self._semaphore = asyncio.Semaphore(most)
        self._withheld = 0  # places to be removed as they become free
        self._responses = self._rejected = 0

    async def __aenter__(self) -> None:
        await self._semaphore.acquire()

    async def __aexit__(self, *_: object) -> None:
        if self._withheld:
            self._withheld -= 1
        else:
            self._semaphore.release()

    def note(self, rejected: bool) -> None:
        """Count a response, and adapt the limit at the end of each window."""
        self._responses += 1
        self._rejected += rejected
        if self._responses == WINDOW:
            share = self._rejected / WINDOW
            self._responses = self._rejected = 0
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


class Pause:
    """A pause of all requests to a server, since each of them would be rejected."""

    def __init__(self) -> None:
        self._until = 0.0

    def extend(self, seconds: float, since: float, address: str) -> None:
        """
        Pause for some seconds from now on.

        Args:
            seconds (`float`): As the server asks.
            since (`float`): When it asked for the first time, by `time.monotonic`.
            address (`str`): Of the server.

        Raises:
            [`~contextcir.chat.exchange.ChatStop`]: The pause would be longer than `MAX_PAUSE` in all.
        """
        until = time.monotonic() + seconds
        if until - since > MAX_PAUSE:
            raise ChatStop(
                "busy",
                f"{address} takes no more requests for now, and asks to wait {seconds:,.0f} s. Run again later;"
                " nothing is lost.",
            )
        self._until = max(self._until, until)

    async def over(self) -> None:
        """
        Wait for the end of the pause.

        Raises:
            [`~contextcir.chat.exchange.ChatStop`]: It was interrupted. Nothing has been sent, so nothing is owed.
        """
        try:
            while (left := self._until - time.monotonic()) > 0:
                await asyncio.sleep(left)
        except asyncio.CancelledError:
            raise ChatStop("interrupted", "The run was interrupted. Run it again to continue.") from None
