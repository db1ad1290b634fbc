"""The client's retries, and what its attempts may have cost."""

import asyncio
import time

import pytest

from tests.chat.conftest import complete, question, server_at
from tests.fake_chat_server import Reply, completion, error


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_temporary_errors_are_retried_and_cost_nothing(fake, status):
    fake.faults.append(error(status))
    outcome = complete(fake, question())
    assert outcome.kind == "answered" and outcome.lost_usd == 0
    assert len(fake.bodies) == 2
    assert fake.bodies[0] == fake.bodies[1]


def test_the_client_waits_for_retry_after(fake):
    times = []

    def answer(body):
        times.append(time.monotonic())
        return error(429, headers={"Retry-After": "0.2"}) if len(times) == 1 else completion()

    fake.answer = answer
    complete(fake, question())
    assert times[1] - times[0] >= 0.2  # the client's own pause is 0.01 s here


def test_every_response_is_reported(fake):
    fake.faults.extend([error(429), error(500)])
    seen = []

    async def once():
        async with server_at(fake, max_retries=3) as server:
            return await server.complete(question(), seen.append)

    assert asyncio.run(once()).kind == "answered"
    assert seen == [True, False, False]


def test_an_attempt_that_times_out_may_have_cost_the_bound(fake):
    fake.faults.append(Reply(200, completion().body, delay=0.6))
    outcome = complete(fake, question(), timeout=0.2)
    assert outcome.kind == "answered"
    assert outcome.lost_usd == server_at(fake).estimate(question())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Reply(200, completion().body, delay=0.4), "timed out"),
        (Reply(200, completion().body, cut=True), "RemoteProtocolError"),  # the server exists: not "unreachable"
    ],
)
def test_attempts_without_an_answer_are_a_failure_and_may_be_charged(fake, fault, message):
    fake.answer = lambda body: fault
    outcome = complete(fake, question(), timeout=0.15, max_retries=1)
    assert outcome.kind == "failed" and message in outcome.error
    assert outcome.lost_usd == 2 * server_at(fake).estimate(question())
