"""A run that stops, is interrupted or killed keeps what was paid for, and the next run continues."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from contextcir.chat import dispatch
from tests.chat.conftest import (
    COST,
    MODES,
    ask_all,
    bound_of,
    interrupt,
    kinds,
    question,
    questions,
    states_of,
    wait_until,
)
from tests.fake_chat_server import Reply, completion, error, user_text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (error(401, "wrong key"), "key"),
        (error(404, "unknown"), "model"),
        (error(429, "over", code="insufficient_quota"), "quota"),
        (completion(model="another"), "model"),
    ],
)
def test_a_stop_ends_all_requests_and_the_next_run_continues(tmp_path, fake, mode, fault, reason):
    fake.faults.extend([completion(), fault])
    options = {"concurrency": 1} if mode == "online" else {}
    outcomes, _, (spent, unsure), _ = ask_all(tmp_path, fake, questions(5), mode, **options)
    assert set(kinds(outcomes)) == {"answered", reason}
    assert unsure == pytest.approx(COST if fault.status == 200 else 0)  # another model has charged something
    if mode == "online":
        assert len(fake.bodies) == 2
    settled = len(fake.bodies) - 1
    assert spent == pytest.approx(settled * COST)
    fake.bodies.clear()
    outcomes, *_ = ask_all(tmp_path, fake, questions(5), mode)
    assert set(kinds(outcomes)) == {"answered"}
    assert len(fake.bodies) == 5 - settled


def test_a_server_that_is_gone(tmp_path, fake):
    url = fake.url
    fake.url = "http://127.0.0.1:9/v1"
    for mode in MODES:
        outcomes, _, spending, _ = ask_all(tmp_path, fake, questions(1), mode, retries=0)
        assert kinds(outcomes) == ["unreachable"]
        assert spending == (0, 0)
    fake.url = url
    outcomes, *_ = ask_all(tmp_path, fake, questions(1))
    assert kinds(outcomes) == ["answered"]


def test_attempts_that_may_be_charged_count_if_the_run_stops(tmp_path, fake):
    """The first attempt times out, and the second is rejected because of the key."""
    fake.faults.extend([completion(), error(401)])
    fake.faults[0].delay = 0.6
    (stop,), _, (_, unsure), _ = ask_all(tmp_path, fake, [question()], retries=1, timeout=0.2)
    assert stop.reason == "key" and unsure == pytest.approx(bound_of(fake, question()))


def test_requests_in_flight_finish_before_a_run_ends(tmp_path, fake):
    fake.answer = lambda body: Reply(200, completion().body, delay=0.2)
    _, states, unsure = interrupt(tmp_path, fake, lambda: len(fake.bodies) == 2, concurrency=2)
    assert states["answered"] == 2 and states["sent"] == 0
    assert unsure == 0 and len(fake.bodies) == 2  # nothing new was sent meanwhile


def test_the_wait_for_requests_in_flight_is_bounded(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(dispatch, "DRAIN_SECONDS", 0.05)
    fake.answer = lambda body: Reply(200, completion().body, delay=3.0)
    seconds, states, unsure = interrupt(tmp_path, fake, lambda: len(fake.bodies) == 2, concurrency=2)
    assert seconds < 2
    assert states["sent"] == 2 and unsure > 0  # perhaps charged, and sent again by the next run
    fake.answer = lambda body: completion()
    outcomes, report, (_, still), _ = ask_all(tmp_path, fake, questions(6))
    assert set(kinds(outcomes)) == {"answered"}
    assert sum(row["sends"] for row in report) == 8
    assert still == unsure


RUN = """
import asyncio, sys
sys.path[:0] = [{root!r}]
from tests.chat.conftest import questions, run_on
class Fake:
    url = {url!r}
async def run():
    async with run_on({folder!r}, Fake, {mode!r}, **{options!r}) as dispatcher:
        await asyncio.gather(*map(dispatcher.ask, questions(30)))
asyncio.run(run())
"""


def kill_a_run(folder, fake, ready, mode, **options):
    """Start a run in another process, and kill it once `ready()` is true."""
    root = str(Path(__file__).parents[2])
    code = RUN.format(root=root, url=fake.url, folder=str(folder), mode=mode, options=options)
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        wait_until(ready)
        process.kill()


def test_a_killed_run_keeps_its_answers(tmp_path, fake):
    """Every recorded answer is kept, and no such request is sent again."""
    fake.answer = lambda body: Reply(200, completion("echo " + user_text(body)).body, delay=0.05)
    kill_a_run(tmp_path, fake, lambda: len(fake.bodies) >= 8, "online", concurrency=3)
    wait_until(lambda: fake.at_once == 0)  # requests that the server is still working on
    first = list(fake.bodies)
    states, _ = states_of(tmp_path)
    assert states["answered"] >= 4 and states["sent"] <= 3
    fake.bodies.clear()
    outcomes, _, (spent, unsure), _ = ask_all(tmp_path, fake, questions(30))
    assert [outcome.value for outcome in outcomes] == [f"echo question {place}" for place in range(30)]
    assert len(fake.bodies) == 30 - states["answered"]
    assert len(first) + len(fake.bodies) <= 33
    assert spent == pytest.approx(30 * COST)
    bound = bound_of(fake, questions(30)[-1])
    assert unsure <= 3 * bound + 1e-12 and (unsure > 0) == (states["sent"] > 0)


def test_a_killed_run_leaves_its_batch_to_the_next_run(tmp_path, fake):
    fake.looks = 10**6
    polled = threading.Event()
    look = fake._look
    fake._look = lambda batch: polled.set() or look(batch)
    kill_a_run(tmp_path, fake, polled.is_set, "batch")
    (stop, *_), *_ = ask_all(tmp_path, fake, questions(30))
    assert stop.reason == "batch"  # single requests would pay a second time
    assert not fake.bodies
    for batch in fake.batches.values():
        batch["looks"] = 1
    fake.looks = 0
    outcomes, report, (spent, unsure), _ = ask_all(tmp_path, fake, questions(31), "batch")
    assert [outcome.value for outcome in outcomes] == [f"echo question {place}" for place in range(31)]
    assert len(fake.batches) == 2  # the second for the one new request
    assert spent == pytest.approx(31 * COST) and unsure == 0
    assert sum(row["sends"] for row in report) == 31
