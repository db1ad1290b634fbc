"""A limit of concurrent requests that adapts to the load of the server."""

import asyncio

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
