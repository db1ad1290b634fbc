"""A chat server on loopback, and runs of a dispatcher against it."""

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager

import openai
import pytest
from pydantic import BaseModel

from contextcir.chat.dispatch import Dispatcher
from contextcir.chat.dispatch_batch import BatchDispatcher
from contextcir.chat.exchange import ChatRequest, ChatStop
from contextcir.chat.ledger import Ledger
from contextcir.chat.ledger_file import rows_of
from contextcir.chat.prices import Price
from contextcir.chat.server import ChatServer
from tests.fake_chat_server import FakeChatServer, user_text

PRICE = Price(1.0, 2.0, image_tokens=100)
COST = 20e-6  # of an answer of the fake server by this price: 10 prompt tokens and 5 completion tokens
MODES = ("online", "batch")


class Things(BaseModel):
    """A schema."""

    things: list[str]
    count: int | None = None


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def fake(monkeypatch):
    """A chat server on loopback. The client's pauses before its retries are short."""
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    with FakeChatServer() as server:
        yield server


def server_at(fake, **options):
    return ChatServer("fake", fake.url, **{"price": PRICE, "max_retries": 1, "timeout": 5.0, **options})


def complete(fake, request, **options):
    """Send one request and return its outcome."""

    async def once():
        async with server_at(fake, **options) as server:
            return await server.complete(request)

    return asyncio.run(once())


def question(prompt="hello", **options):
    return ChatRequest("a role", prompt, **options)


def questions(number, **options):
    return [question(f"question {place}", **options) for place in range(number)]


def bound_of(fake, request):
    """The estimated cost of a request in the runs below."""
    return server_at(fake, max_tokens=50).estimate(request)


@asynccontextmanager
async def run_on(folder, fake, mode="online", max_usd=None, retries=1, timeout=5.0, temperature=None, **options):
    """A dispatcher with a server and a ledger."""
    if mode == "batch":
        options = {"poll_seconds": 0.02, **options}
    asked = {"max_tokens": 50, "max_retries": retries, "timeout": timeout, "temperature": temperature}
    async with server_at(fake, **asked) as server:
        with Ledger(folder, server.settings, max_usd) as ledger:
            async with {"online": Dispatcher, "batch": BatchDispatcher}[mode](server, ledger, **options) as dispatcher:
                yield dispatcher


def ask_all(folder, fake, requests, mode="online", **options):
    """Outcomes (or errors) of all requests, the ledger's report, its spent and unsure USD, and the run's usage."""

    async def run():
        async with run_on(folder, fake, mode, **options) as dispatcher:
            outcomes = await asyncio.gather(*map(dispatcher.ask, requests), return_exceptions=True)
            ledger = dispatcher.ledger
            return outcomes, ledger.report(), (ledger.spent_usd, ledger.unsure_usd), dispatcher.usage

    return asyncio.run(run())


def interrupt(folder, fake, ready, number=6, **options):
    """Start a run, cancel it once `ready()` is true; return how long it took to end, and how its ledger stands."""

    async def run():
        async with run_on(folder, fake, **options) as dispatcher:
            await asyncio.gather(*map(dispatcher.ask, questions(number)))

    async def start():
        task = asyncio.create_task(run())
        await asyncio.to_thread(wait_until, ready)
        task.cancel()
        begin = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - begin

    seconds = asyncio.run(start())
    return seconds, *states_of(folder)


def states_of(folder):
    """Number of requests by state in the ledger of a folder, and the most that is unsure in USD. Only read: opening
    it for a run would settle what is in flight."""
    rows = rows_of(folder / "ledger.sqlite", "select state, lost_usd + reserved_usd + kill_usd as usd from requests")
    return Counter(row["state"] for row in rows), sum(row["usd"] for row in rows)


def wait_until(ready, seconds=60):
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kinds(outcomes):
    """The kinds of outcomes, with the reasons of stops in their place."""
    return [outcome.reason if isinstance(outcome, ChatStop) else outcome.kind for outcome in outcomes]


def texts(bodies):
    return Counter(map(user_text, bodies))
