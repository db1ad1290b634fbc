"""Both dispatchers send each request once, and record its outcome and cost."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from contextcir.chat.dispatch import Dispatcher
from contextcir.chat.exchange import ChatBackend, ChatRequest, Outcome
from contextcir.chat.ledger import Ledger
from tests.chat.conftest import COST, MODES, Things, ask_all, bound_of, kinds, question, questions, run_on, texts
from tests.fake_chat_server import Reply, completion, error, user_text

both_modes = pytest.mark.parametrize("mode", MODES)


# --- once ------------------------------------------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize("schema", [None, Things])
def test_an_answer_in_the_ledger_is_not_requested_again(tmp_path, fake, mode, schema):
    fake.answer = lambda body: completion('{"things": ["' + user_text(body) + '"]}')
    first, *_ = ask_all(tmp_path, fake, questions(5, schema=schema), mode)
    assert kinds(first) == ["answered"] * 5
    for again in MODES:  # a folder started in one mode continues in the other
        second, report, (spent, unsure), usage = ask_all(tmp_path, fake, questions(5, schema=schema), again)
        assert second == [replace(outcome, recalled=True) for outcome in first]
        assert second[0].value == (Things(things=["question 0"]) if schema else '{"things": ["question 0"]}')
        assert usage.sent == 0 and usage.usd == 0
    assert len(fake.bodies) == 5
    assert [(row["requests"], row["sends"]) for row in report] == [(5, 5)]
    assert spent == pytest.approx(5 * COST) and unsure == 0


@both_modes
def test_only_new_requests_are_sent(tmp_path, fake, mode):
    ask_all(tmp_path, fake, questions(3), mode)
    *_, usage = ask_all(tmp_path, fake, questions(4), mode)
    assert texts(fake.bodies) == {f"question {place}": 1 for place in range(4)}
    assert (usage.sent, usage.prompt_tokens, usage.completion_tokens) == (1, 10, 5)
    assert usage.usd == pytest.approx(COST)


@both_modes
def test_equal_requests_at_the_same_time_are_sent_once(tmp_path, fake, mode):
    outcomes, *_ = ask_all(tmp_path, fake, questions(1) * 5, mode)
    assert len(fake.bodies) == 1
    assert outcomes == [outcomes[0]] * 5


def test_a_caller_that_is_cancelled_does_not_cancel_the_request(tmp_path, fake):
    fake.answer = lambda body: Reply(200, completion().body, delay=0.1)

    async def run():
        async with run_on(tmp_path, fake) as dispatcher:
            one, other = (asyncio.create_task(dispatcher.ask(question())) for _ in range(2))
            while not fake.bodies:
                await asyncio.sleep(0.01)
            one.cancel()
            return await other

    assert asyncio.run(run()).kind == "answered"
    assert len(fake.bodies) == 1


def test_any_backend_can_answer(tmp_path):
    class Echo(ChatBackend):
        settings = {"backend": "echo"}

        def request_id(self, request):
            return request.prompt

        def estimate(self, request):
            return 0.0

        async def complete(self, request, on_response=None):
            return Outcome("answered", request.prompt)

    async def run():
        with Ledger(tmp_path, Echo.settings) as ledger:
            async with Dispatcher(Echo(), ledger) as dispatcher:
                return await dispatcher.ask(question("hello"))

    outcomes = [asyncio.run(run()) for _ in range(2)]
    assert [(one.value, one.request_id, one.recalled) for one in outcomes] == [
        ("hello", "hello", False),
        ("hello", "hello", True),
    ]


# --- outcomes --------------------------------------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (completion(None, refusal="no"), "refused"),
        (completion("x", finish="content_filter"), "filtered"),
        (completion("x", finish="length"), "cut"),
        (error(400, "no", code="content_filter"), "filtered"),
    ],
)
def test_outcomes_that_would_repeat_are_final(tmp_path, fake, mode, reply, kind):
    fake.answer = lambda body: reply
    for _ in range(2):
        (outcome,), *_ = ask_all(tmp_path, fake, questions(1), mode)
        assert (outcome.kind, outcome.value) == (kind, None)
    assert len(fake.bodies) == 1


@both_modes
def test_failed_requests_are_sent_again_by_the_next_run(tmp_path, fake, mode):
    fake.answer = lambda body: error(400, "too many pixels")
    (outcome,), *_ = ask_all(tmp_path, fake, questions(1), mode)
    assert outcome.kind == "failed" and "too many pixels" in outcome.error
    fake.answer = lambda body: completion()
    (outcome,), report, *_ = ask_all(tmp_path, fake, questions(1), mode)
    assert outcome.kind == "answered"
    assert [(row["state"], row["sends"]) for row in report] == [("answered", 2)]


@both_modes
def test_a_malformed_answer_is_requested_once_more(tmp_path, fake, mode):
    fake.faults.append(completion("oops"))
    fake.answer = lambda body: completion('{"things": []}')
    (outcome,), report, _, usage = ask_all(tmp_path, fake, questions(1, schema=Things), mode)
    assert outcome.value == Things(things=[])
    assert [row["kind"] for row in report] == ["answered", "malformed"]
    assert usage.sent == 2 and usage.prompt_tokens == 20
    assert ["<schema" in user_text(body) for body in fake.bodies] == [False, True]


@both_modes
def test_two_malformed_answers_are_a_final_failure(tmp_path, fake, mode):
    fake.answer = lambda body: completion("oops")
    for _ in range(2):
        (outcome,), *_ = ask_all(tmp_path, fake, questions(1, schema=Things), mode)
        assert outcome.kind == "malformed" and outcome.text == "oops"
    assert len(fake.bodies) == 2


@both_modes
def test_an_unusable_image_fails_only_its_own_request(tmp_path, fake, mode):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    requests = [ChatRequest("role", "a", (image,)) for image in (tmp_path / "gone.png", bad)] + questions(1)
    outcomes, _, (_, unsure), _ = ask_all(tmp_path / "out", fake, requests, mode)
    assert kinds(outcomes) == ["failed", "failed", "answered"]
    assert "gone.png" in outcomes[0].error and "bad.png" in outcomes[1].error
    assert len(fake.bodies) == 1 and unsure == 0


@both_modes
def test_a_server_without_schemas_gets_them_in_the_prompt(tmp_path, fake, mode):
    def answer(body):
        known = "response_format" in body
        return error(400, "json_schema is not supported") if known else completion('{"things": []}')

    fake.answer = answer
    outcomes, *_ = ask_all(tmp_path, fake, questions(3, schema=Things), mode)
    assert set(kinds(outcomes)) == {"answered"}


# --- the budget ------------------------------------------------------------------------------------------------------


@both_modes
def test_the_limit_is_never_exceeded(tmp_path, fake, mode):
    fake.answer = lambda body: completion(usage=(20, 12))  # a fifth of the bound
    bound, cost = bound_of(fake, question("question 0")), 44e-6
    limit = bound + 10.5 * cost
    outcomes, _, (spent, unsure), _ = ask_all(tmp_path, fake, questions(40), mode, max_usd=limit)
    assert set(kinds(outcomes)) == {"answered", "budget"}
    assert f"${limit:.2f}" in str(outcomes[kinds(outcomes).index("budget")])
    assert spent <= limit and unsure == 0
    assert spent == pytest.approx(len(fake.bodies) * cost)
    assert len(fake.bodies) == 11  # what was reserved and not charged was used
    outcomes, *_ = ask_all(tmp_path, fake, questions(40), mode, max_usd=1.0)
    assert set(kinds(outcomes)) == {"answered"}
    assert len(fake.bodies) == 40


def test_reservations_hold_back_requests_that_might_exceed_the_limit(tmp_path, fake):
    fake.answer = lambda body: Reply(200, completion().body, delay=0.05)
    bound = bound_of(fake, question("question 0"))
    ask_all(tmp_path, fake, questions(8), max_usd=2.5 * bound, concurrency=8)
    assert fake.most_at_once == 2


# --- other settings, and damage --------------------------------------------------------------------------------------


@both_modes
@pytest.mark.fault("G06", "settings may change while nothing is answered, and temperature and max_tokens at any time")
def test_only_requests_that_have_changed_are_sent_again(tmp_path, fake, mode):
    for temperature, sent in ((0.0, 3), (0.7, 6), (0.0, 6), (0.7, 6)):
        outcomes, *_ = ask_all(tmp_path, fake, questions(3), mode, temperature=temperature)
        assert kinds(outcomes) == ["answered"] * 3 and len(fake.bodies) == sent


@both_modes
@pytest.mark.fault("G10", "an answer in the ledger that cannot be read is asked for again, and ends no run")
def test_an_answer_that_cannot_be_read_is_asked_for_again(tmp_path, fake, mode):
    fake.answer = lambda body: completion('{"things": []}')
    ask_all(tmp_path, fake, questions(3, schema=Things), mode)
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger:
        broken = """update requests set answer = '{"things": 5}' where id = (select min(id) from requests)"""
        ledger.execute(broken)
        ledger.commit()
    outcomes, *_ = ask_all(tmp_path, fake, questions(3, schema=Things), mode)
    assert kinds(outcomes) == ["answered"] * 3 and len(fake.bodies) == 4


# --- load ------------------------------------------------------------------------------------------------------------


def test_concurrency_is_limited(tmp_path, fake):
    fake.answer = lambda body: Reply(200, completion().body, delay=0.03)
    ask_all(tmp_path, fake, questions(12), concurrency=4)
    assert fake.most_at_once == 4
    with pytest.raises(ValueError, match="concurrency=0"):
        Dispatcher(None, None, concurrency=0)


def test_a_run_slows_down_for_a_busy_server(tmp_path, fake):
    """The server takes two requests at a time: without a lower limit, retries would run out."""
    fake.answer = lambda body: (
        error(429, headers={"Retry-After": "0.02"}) if fake.at_once > 2 else Reply(200, completion().body, delay=0.01)
    )
    outcomes, *_ = ask_all(tmp_path, fake, questions(60), concurrency=16, retries=10)
    assert set(kinds(outcomes)) == {"answered"}
