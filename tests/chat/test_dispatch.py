"""Requests through both dispatchers, past every fault of a server and every way in which a run may end."""

import asyncio
import io
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from PIL import Image
from pydantic import BaseModel

from contextcir.chat import BatchDispatcher, Dispatcher
from contextcir.chat import dispatch as asking_module
from contextcir.chat.ledger import Ledger
from contextcir.chat.pace import WINDOW, Limit
from contextcir.chat.prices import Price
from contextcir.chat.server import ChatRequest, ChatServer, ChatStop
from tests.fake_chat_server import FakeChatServer, Reply, completion, error, user_text

PRICE = Price(1.0, 1.0, image_tokens=100)
MODES = ("online", "batch")


class Things(BaseModel):
    """A schema."""

    things: list[str]


@pytest.fixture
def fake():
    with FakeChatServer() as server:
        yield server


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@asynccontextmanager
async def run_on(folder, fake, mode="online", max_usd=None, retries=1, **options):
    """A dispatcher with everything that it needs."""
    kind = {"online": Dispatcher, "batch": BatchDispatcher}[mode]
    if mode == "batch":
        options = {"poll_seconds": 0.02, "quiet_seconds": 0.03, **options}
    async with ChatServer("fake", fake.url, price=PRICE, max_tokens=50, max_retries=retries, timeout=5.0) as server:
        with Ledger(folder, server.settings, max_usd) as ledger:
            async with kind(server, ledger, **options) as dispatcher:
                yield dispatcher


def questions(number, **options):
    return [ChatRequest("role", f"question {place}", **options) for place in range(number)]


def ask_all(folder, fake, requests, mode="online", **options):
    """Outcomes (or errors) of all, with the ledger's report, spending and the dispatcher's progress."""

    async def run():
        async with run_on(folder, fake, mode, **options) as dispatcher:
            outcomes = await asyncio.gather(*map(dispatcher.ask, requests), return_exceptions=True)
            ledger = dispatcher.ledger
            return outcomes, ledger.report(), (ledger.spent_usd, ledger.unsure_usd), dispatcher.progress

    return asyncio.run(run())


def texts(bodies):
    return Counter(map(user_text, bodies))


# --- once ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("schema", [None, Things])
def test_nothing_is_asked_twice(tmp_path, fake, mode, schema):
    fake.answer = lambda body: completion('{"things": ["' + user_text(body) + '"]}')
    first, *_ = ask_all(tmp_path, fake, questions(5, schema=schema), mode)
    assert [outcome.kind for outcome in first] == ["answered"] * 5
    for again in MODES:  # a folder begun in one mode goes on in the other
        second, report, (spent, unsure), progress = ask_all(tmp_path, fake, questions(5, schema=schema), again)
        assert second == first
        assert second[0].value == (Things(things=["question 0"]) if schema else '{"things": ["question 0"]}')
        assert progress.done == 5 and progress.sent == 0 and progress.usd == 0
    assert len(fake.bodies) == 5
    assert [(row["requests"], row["sends"]) for row in report] == [(5, 5)]
    assert spent == pytest.approx(5 * 15e-6) and unsure == 0


@pytest.mark.parametrize("mode", MODES)
def test_one_more_costs_one_more(tmp_path, fake, mode):
    ask_all(tmp_path, fake, questions(3), mode)
    ask_all(tmp_path, fake, questions(4), mode)
    assert texts(fake.bodies) == {f"question {place}": 1 for place in range(4)}


@pytest.mark.parametrize("mode", MODES)
def test_the_same_question_at_once_is_sent_once(tmp_path, fake, mode):
    outcomes, *_ = ask_all(tmp_path, fake, questions(1) * 5, mode)
    assert len(fake.bodies) == 1
    assert outcomes == [outcomes[0]] * 5


def test_who_asks_may_go_away(tmp_path, fake):
    fake.answer = lambda body: Reply(200, completion().body, delay=0.3)

    async def run():
        async with run_on(tmp_path, fake) as dispatcher:
            (question,) = questions(1)
            one, other = (asyncio.create_task(dispatcher.ask(question)) for _ in range(2))
            await asyncio.sleep(0.1)
            one.cancel()
            return await other

    assert asyncio.run(run()).kind == "answered"
    assert len(fake.bodies) == 1


# --- outcomes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (completion(None, refusal="no"), "refused"),
        (completion("x", finish="content_filter"), "filtered"),
        (completion("x", finish="length"), "cut"),
        (error(400, "no", code="content_filter"), "filtered"),
    ],
)
def test_what_would_end_the_same_is_not_sent_again(tmp_path, fake, mode, reply, kind):
    fake.answer = lambda body: reply
    for _ in range(2):
        (outcome,), *_ = ask_all(tmp_path, fake, questions(1), mode)
        assert (outcome.kind, outcome.value) == (kind, None)
    assert len(fake.bodies) == 1


@pytest.mark.parametrize("mode", MODES)
def test_what_failed_on_the_way_is_sent_again_by_the_next_run(tmp_path, fake, mode):
    fake.answer = lambda body: error(400, "too many pixels")
    (outcome,), *_ = ask_all(tmp_path, fake, questions(1), mode)
    assert outcome.kind == "failed" and "too many pixels" in outcome.error
    fake.answer = lambda body: completion()
    (outcome,), report, *_ = ask_all(tmp_path, fake, questions(1), mode)
    assert outcome.kind == "answered"
    assert [(row["state"], row["sends"]) for row in report] == [("answered", 2)]


@pytest.mark.parametrize("mode", MODES)
def test_a_malformed_answer_is_asked_for_once_more(tmp_path, fake, mode):
    fake.faults.append(completion("oops"))
    fake.answer = lambda body: completion('{"things": []}')
    (outcome,), report, _, progress = ask_all(tmp_path, fake, questions(1, schema=Things), mode)
    assert outcome.value == Things(things=[])
    assert [row["kind"] for row in report] == ["answered", "malformed"]
    assert progress.kinds == {"answered": 1}
    assert progress.sent == 2 and progress.prompt_tokens == 20
    assert ["<schema" in user_text(body) for body in fake.bodies] == [False, True]


@pytest.mark.parametrize("mode", MODES)
def test_two_malformed_answers_are_a_failure_for_good(tmp_path, fake, mode):
    fake.answer = lambda body: completion("oops")
    for _ in range(2):
        (outcome,), *_ = ask_all(tmp_path, fake, questions(1, schema=Things), mode)
        assert outcome.kind == "malformed" and outcome.text == "oops"
    assert len(fake.bodies) == 2


@pytest.mark.parametrize("mode", MODES)
def test_an_unusable_image_is_a_failure_of_its_own(tmp_path, fake, mode):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    requests = [ChatRequest("role", "a", (image,)) for image in (tmp_path / "gone.png", bad)] + questions(1)
    outcomes, _, (_, unsure), progress = ask_all(tmp_path / "out", fake, requests, mode)
    assert [outcome.kind for outcome in outcomes] == ["failed", "failed", "answered"]
    assert "gone.png" in outcomes[0].error and "bad.png" in outcomes[1].error
    assert len(fake.bodies) == 1 and unsure == 0
    assert progress.done == 3 and progress.failed == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_server_without_schemas_is_told_in_the_prompt(tmp_path, fake, mode):
    def answer(body):
        known = "response_format" in body
        return error(400, "json_schema is not supported") if known else completion('{"things": []}')

    fake.answer = answer
    outcomes, *_ = ask_all(tmp_path, fake, questions(3, schema=Things), mode)
    assert {outcome.kind for outcome in outcomes} == {"answered"}


# --- stops -----------------------------------------------------------------------------------------------------------


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
def test_a_stop_stops_all_and_the_next_run_goes_on(tmp_path, fake, mode, fault, reason):
    fake.faults.extend([completion(), fault])
    options = {"concurrency": 1} if mode == "online" else {}
    outcomes, _, (spent, unsure), _ = ask_all(tmp_path, fake, questions(5), mode, **options)
    stops = [outcome for outcome in outcomes if isinstance(outcome, ChatStop)]
    assert {stop.reason for stop in stops} == {reason}
    assert len(stops) >= 1
    assert unsure == pytest.approx(15e-6 if fault.status == 200 else 0)  # another model has charged something
    if mode == "online":
        assert len(fake.bodies) == 2
    settled = len(fake.bodies) - 1
    assert spent == pytest.approx(settled * 15e-6)
    fake.bodies.clear()
    outcomes, *_ = ask_all(tmp_path, fake, questions(5), mode)
    assert {outcome.kind for outcome in outcomes} == {"answered"}
    assert len(fake.bodies) == 5 - settled


def test_a_server_that_is_gone(tmp_path, fake):
    url = fake.url
    fake.url = "http://127.0.0.1:9/v1"
    for mode in MODES:
        (outcome,), _, spending, _ = ask_all(tmp_path, fake, questions(1), mode, retries=0)
        assert isinstance(outcome, ChatStop) and outcome.reason == "unreachable"
        assert spending == (0, 0)
    fake.url = url
    (outcome,), *_ = ask_all(tmp_path, fake, questions(1))
    assert outcome.kind == "answered"


def test_attempts_that_may_be_charged_count_where_the_run_stops(tmp_path, fake):
    """The first try is cut off by the clock, the second is told that the key is wrong."""
    fake.faults.extend([completion(), error(401)])
    fake.faults[0].delay = 8.0
    (stop,), _, (_, unsure), _ = ask_all(tmp_path, fake, questions(1), retries=1)
    assert stop.reason == "key" and unsure == pytest.approx(bound_of(questions(1)[0]))


# --- the budget ------------------------------------------------------------------------------------------------------


def bound_of(request):
    return ChatServer("fake", "http://x/v1", price=PRICE, max_tokens=50).estimate(request)


@pytest.mark.parametrize("mode", MODES)
def test_the_limit_is_never_passed_whatever_is_on_its_way(tmp_path, fake, mode):
    usage = (20, 25)  # a quarter of what might be
    fake.answer = lambda body: completion(usage=usage)
    bound, cost = bound_of(questions(1)[0]), 45e-6
    limit = bound + 10.5 * cost
    outcomes, _, (spent, unsure), _ = ask_all(tmp_path, fake, questions(40), mode, max_usd=limit)
    stops = [outcome for outcome in outcomes if isinstance(outcome, ChatStop)]
    assert {stop.reason for stop in stops} == {"budget"}
    assert "Raise the limit and run again" in str(stops[0])
    assert spent <= limit and unsure == 0
    assert spent == pytest.approx(len(fake.bodies) * cost)
    assert len(fake.bodies) == 11  # money that came back was used
    outcomes, _, (spent, _), _ = ask_all(tmp_path, fake, questions(40), mode, max_usd=1.0)
    assert {outcome.kind for outcome in outcomes} == {"answered"}
    assert len(fake.bodies) == 40


def test_reservations_hold_back_what_might_be_too_much(tmp_path, fake):
    fake.answer = lambda body: Reply(200, completion().body, delay=0.05)
    bound = bound_of(questions(1)[0])
    ask_all(tmp_path, fake, questions(8), max_usd=2.5 * bound, concurrency=8)
    assert fake.most_at_once == 2


# --- load ------------------------------------------------------------------------------------------------------------


def test_no_more_than_so_many_at_once(tmp_path, fake):
    fake.answer = lambda body: Reply(200, completion().body, delay=0.03)
    ask_all(tmp_path, fake, questions(20), concurrency=4)
    assert fake.most_at_once == 4
    with pytest.raises(ValueError, match="at least 1"):
        Dispatcher(None, None, concurrency=0)


def responses(limit, *turned_down):
    for one in turned_down:
        limit.note(one)


def test_the_limit_falls_while_much_is_turned_down_and_rises_again():
    limit = Limit(16)
    responses(limit, *[True] * WINDOW)
    assert limit.now == 8
    responses(limit, *[True] * 10 * WINDOW)
    assert limit.now == 1
    responses(limit, *[False] * WINDOW)
    assert limit.now == 2
    responses(limit, *[False] * 20 * WINDOW)
    assert limit.now == 16


def test_the_odd_response_that_is_turned_down_changes_nothing():
    limit = Limit(16)
    for _ in range(50):
        responses(limit, True, *[False] * (WINDOW - 1))
    assert limit.now == 16


def test_a_lower_limit_holds_for_those_who_enter():
    async def run():
        limit, inside, most = Limit(8), 0, []

        async def one():
            nonlocal inside
            async with limit:
                inside += 1
                most.append(inside)
                await asyncio.sleep(0.01)
                inside -= 1

        first = [asyncio.create_task(one()) for _ in range(8)]
        await asyncio.sleep(0.005)
        responses(limit, *[True] * 2 * WINDOW)  # to 2, while 8 are inside
        await asyncio.gather(*first)
        most.clear()
        await asyncio.gather(*[one() for _ in range(8)])
        low = max(most)
        responses(limit, *[False] * 10 * WINDOW)
        most.clear()
        await asyncio.gather(*[one() for _ in range(20)])
        return low, max(most)

    assert asyncio.run(run()) == (2, 8)


def test_a_throttled_run_gets_through(tmp_path, fake):
    """A server that takes two at a time: without holding back, retries would run out."""
    fake.answer = lambda body: (
        error(429, headers={"Retry-After": "0.02"}) if fake.at_once > 2 else Reply(200, completion().body, delay=0.01)
    )
    outcomes, *_ = ask_all(tmp_path, fake, questions(60), concurrency=16, retries=10)
    assert {outcome.kind for outcome in outcomes} == {"answered"}


def test_progress(tmp_path, fake):
    seen = []

    def note(progress):
        seen.append((progress.done, progress.failed, progress.prompt_tokens, progress.seconds_left))

    fake.faults.append(completion(None, refusal="no"))
    *_, progress = ask_all(tmp_path, fake, questions(4), on_progress=note, expected=8, concurrency=1)
    assert [one[:3] for one in seen] == [(1, 1, 10), (2, 1, 20), (3, 1, 30), (4, 1, 40)]
    assert all(one[3] > 0 for one in seen)
    assert progress.kinds == {"answered": 3, "refused": 1}
    assert progress.usd == pytest.approx(4 * 15e-6)
    *_, progress = ask_all(tmp_path, fake, questions(4), expected=8)
    assert progress.seconds_left is None  # nothing was sent: no pace to go by


# --- the end of a run ------------------------------------------------------------------------------------------------


def interrupted(folder, fake, after, number=6, **options):
    """Start a run, cancel it, and return how long that took and the states of its requests."""

    async def run():
        async with run_on(folder, fake, **options) as dispatcher:
            await asyncio.gather(*map(dispatcher.ask, questions(number)))

    async def start():
        task = asyncio.create_task(run())
        await asyncio.sleep(after)
        task.cancel()
        begin = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - begin

    seconds = asyncio.run(start())
    with Ledger(folder, ChatServer("fake", fake.url, price=PRICE, max_tokens=50).settings) as ledger:
        states = Counter()
        for row in ledger.report():
            states[row["state"]] += row["requests"]
        return seconds, states, ledger.unsure_usd


def test_what_is_on_its_way_arrives_before_a_run_ends(tmp_path, fake):
    fake.answer = lambda body: Reply(200, completion().body, delay=0.5)
    _, states, unsure = interrupted(tmp_path, fake, after=0.3, concurrency=2)
    assert states["answered"] == 2 and states["sent"] == 0
    assert unsure == 0 and len(fake.bodies) == 2  # nothing new was sent meanwhile


def test_the_wait_for_it_is_bounded(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(asking_module, "DRAIN_SECONDS", 0.2)
    fake.answer = lambda body: Reply(200, completion().body, delay=3.0)
    seconds, states, unsure = interrupted(tmp_path, fake, after=0.3, concurrency=2)
    assert seconds < 2
    assert states["sent"] == 2 and unsure > 0  # perhaps spent, and sent again by the next run
    fake.answer = lambda body: completion()
    outcomes, report, (_, still), _ = ask_all(tmp_path, fake, questions(6))
    assert {outcome.kind for outcome in outcomes} == {"answered"}
    assert sum(row["sends"] for row in report) == 8
    assert still == unsure


RUN = """
import asyncio, sys
sys.path[:0] = [{root!r}]
from tests.chat.test_dispatch import questions, run_on
class There:
    url = {url!r}
async def run():
    async with run_on({folder!r}, There, {mode!r}, **{options!r}) as dispatcher:
        print("started", flush=True)
        await asyncio.gather(*map(dispatcher.ask, questions(30)))
        print("finished", dispatcher.ledger.spent_usd, dispatcher.ledger.unsure_usd, flush=True)
asyncio.run(run())
"""


def start_process(folder, fake, mode, **options):
    root = Path(__file__).parents[2]
    code = RUN.format(root=str(root), url=fake.url, folder=str(folder), mode=mode, options=options)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_killed_run_goes_on(tmp_path, fake):
    """SIGKILL in the midst of sending: every answer that was noted is kept, and no such request is sent again."""
    seen = threading.Event()

    def answer(body):
        if len(fake.bodies) >= 8:
            seen.set()
        return Reply(200, completion("echo " + user_text(body)).body, delay=0.05)

    fake.answer = answer
    process = start_process(tmp_path, fake, "online", concurrency=3)
    assert seen.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.2)  # for what the server still has in its hands
    first = list(fake.bodies)
    with Ledger(tmp_path, ChatServer("fake", fake.url, price=PRICE, max_tokens=50).settings) as ledger:
        states = {row["state"]: row["requests"] for row in ledger.report()}
    assert states["answered"] >= 4 and states.get("sent", 0) <= 3
    fake.bodies.clear()
    outcomes, report, (spent, unsure), _ = ask_all(tmp_path, fake, questions(30))
    assert [outcome.value for outcome in outcomes] == [f"echo question {place}" for place in range(30)]
    assert len(fake.bodies) == 30 - states["answered"]
    assert len(first) + len(fake.bodies) <= 33
    assert spent == pytest.approx(30 * 15e-6)
    bound = bound_of(questions(30)[-1])
    assert unsure <= 3 * bound + 1e-12 and (unsure > 0) == (states.get("sent", 0) > 0)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_one_batch_for_all_that_is_asked(tmp_path, fake):
    fake.looks = 2
    outcomes, *_ = ask_all(tmp_path, fake, questions(10), "batch")
    assert [outcome.value for outcome in outcomes] == [f"echo question {place}" for place in range(10)]
    assert len(fake.batches) == 1


def test_what_follows_from_answers_is_another_batch(tmp_path, fake):
    async def run():
        async with run_on(tmp_path, fake, "batch") as dispatcher:

            async def two(place):
                first = await dispatcher.ask(ChatRequest("one", f"first {place}"))
                return await dispatcher.ask(ChatRequest("two", f"then {first.value}"))

            return await asyncio.gather(*map(two, range(6)))

    assert asyncio.run(run())[5].value == "echo then echo first 5"
    assert len(fake.batches) == 2


def test_files_are_limited_in_requests_and_bytes(tmp_path, fake):
    ask_all(tmp_path / "a", fake, questions(10), "batch", max_requests=4)
    assert len(fake.batches) == 3
    ask_all(tmp_path / "b", fake, questions(10), "batch", max_bytes=600)
    sizes = [len(fake.files[batch["input_file_id"]]) for batch in list(fake.batches.values())[3:]]
    assert len(sizes) > 3 and max(sizes) <= 600
    before = len(fake.batches)
    outcomes, *_ = ask_all(tmp_path / "c", fake, questions(3), "batch", max_bytes=10)  # each by itself
    assert len(fake.batches) == before + 3
    assert {outcome.kind for outcome in outcomes} == {"answered"}


def test_images_go_in_batches(tmp_path, fake):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    (outcome,), *_ = ask_all(tmp_path, fake, [ChatRequest("role", "look", (buffer.getvalue(),))], "batch")
    assert outcome.value == "echo look"


@pytest.mark.parametrize(("status", "answered"), [("expired", 3), ("cancelled", 4), ("expired", 0), ("completed", 5)])
def test_only_what_a_batch_lacks_is_sent_again(tmp_path, fake, status, answered):
    fake.batch_ends.append((status, answered))
    outcomes, _, (spent, unsure), _ = ask_all(tmp_path, fake, questions(8), "batch")
    assert [outcome.value for outcome in outcomes] == [f"echo question {place}" for place in range(8)]
    assert max(texts(fake.bodies).values()) == 1
    assert len(fake.batches) == 2
    assert spent == pytest.approx(8 * 15e-6) and unsure == 0


@pytest.mark.parametrize("fault", [error(429, "busy"), error(500, "broken"), error(408)])
def test_passing_faults_in_a_batch_are_sent_again(tmp_path, fake, fault):
    fake.faults.append(fault)
    outcomes, *_ = ask_all(tmp_path, fake, questions(5), "batch")
    assert {outcome.kind for outcome in outcomes} == {"answered"}
    assert sorted(texts(fake.bodies).values()) == [1, 1, 1, 1, 2]


def test_a_batch_that_failed_as_a_whole_is_sent_again(tmp_path, fake):
    fake.batch_ends.append(("failed", None))
    outcomes, *_ = ask_all(tmp_path, fake, questions(3), "batch")
    assert {outcome.kind for outcome in outcomes} == {"answered"}


def test_batches_are_not_sent_for_ever(tmp_path, fake):
    fake.batch_error = {"code": "invalid", "message": "line 1 is no JSON", "line": 1, "param": None}
    fake.batch_ends.extend([("failed", None)] * 10)
    outcomes, _, (spent, unsure), _ = ask_all(tmp_path, fake, questions(3), "batch", max_rounds=3)
    assert {outcome.kind for outcome in outcomes} == {"failed"}
    assert "failed line 1 is no JSON, the last of 3" in outcomes[0].error
    assert len(fake.batches) == 3
    assert (spent, unsure) == (0, 0)


def test_a_batch_for_which_there_is_no_quota(tmp_path, fake):
    fake.batch_error = {"code": "billing_hard_limit_reached", "message": "pay", "line": None, "param": None}
    fake.batch_ends.append(("failed", None))
    outcomes, _, spending, _ = ask_all(tmp_path, fake, questions(3), "batch")
    assert {outcome.reason for outcome in outcomes} == {"quota"}
    assert spending == (0, 0) and len(fake.batches) == 1
    outcomes, *_ = ask_all(tmp_path, fake, questions(3), "batch")
    assert {outcome.kind for outcome in outcomes} == {"answered"}


def test_a_killed_run_asks_after_its_batch(tmp_path, fake):
    fake.looks = 10**6
    process = start_process(tmp_path, fake, "batch")
    deadline = time.monotonic() + 60
    while not fake.batches and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (stop, *_), *_ = ask_all(tmp_path, fake, questions(30))
    assert stop.reason == "batch"  # online would pay a second time
    assert not fake.bodies
    for batch in fake.batches.values():
        batch["looks"] = 1
    fake.looks = 0
    outcomes, report, (spent, unsure), _ = ask_all(tmp_path, fake, questions(31), "batch")
    assert [outcome.value for outcome in outcomes] == [f"echo question {place}" for place in range(31)]
    assert len(fake.batches) == 2  # the second for the one new question
    assert spent == pytest.approx(31 * 15e-6) and unsure == 0
    assert sum(row["sends"] for row in report) == 31


def test_a_batch_that_was_made_and_not_heard_of_is_not_made_again(tmp_path, fake):
    fake.lost_batches = 1
    (stop, *_), _, (spent, unsure), _ = ask_all(tmp_path, fake, questions(3), "batch", retries=5)
    assert stop.reason == "unreachable" and len(fake.batches) == 1 and spent == 0 and unsure > 0
    outcomes, _, (spent, unsure), _ = ask_all(tmp_path, fake, questions(3), "batch")
    assert {outcome.kind for outcome in outcomes} == {"answered"}
    assert len(fake.batches) == 1 and spent == pytest.approx(3 * 15e-6) and unsure == 0


def test_a_batch_that_is_gone_is_sent_again(tmp_path, fake):
    fake.looks = 10**6
    process = start_process(tmp_path, fake, "batch")
    deadline = time.monotonic() + 60
    while not fake.batches and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    fake.batches.clear()  # as they are for another key
    fake.looks = 0
    outcomes, *_ = ask_all(tmp_path, fake, questions(30), "batch")
    assert {outcome.kind for outcome in outcomes} == {"answered"}


@pytest.mark.parametrize("named", [True, False])
def test_a_batch_whose_name_was_never_heard(tmp_path, fake, named):
    """The run died between asking for a batch and hearing of it: the label tells whether there is one."""

    async def die(dispatcher, path, key):
        if named:
            await submit(dispatcher, path, key)
        raise KeyboardInterrupt

    from contextcir.chat import dispatch_batch as batches

    submit = batches.submit_batch
    fake.looks = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "submit_batch", die)
        with pytest.raises(KeyboardInterrupt):
            ask_all(tmp_path, fake, questions(3), "batch")
    assert len(fake.batches) == named
    outcomes, _, (spent, unsure), _ = ask_all(tmp_path, fake, questions(3), "batch")
    assert {outcome.kind for outcome in outcomes} == {"answered"}
    assert len(fake.batches) == 1
    assert spent == pytest.approx(3 * 15e-6) and unsure == 0


def test_a_run_that_is_interrupted_leaves_its_batch_at_work(tmp_path, fake):
    fake.looks = 10**6
    seconds, states, unsure = interrupted(tmp_path, fake, after=1.0, mode="batch")
    assert seconds < 2 and states == {"sent": 6} and unsure > 0
    for batch in fake.batches.values():
        batch["looks"] = 0
    outcomes, _, (_, unsure), _ = ask_all(tmp_path, fake, questions(6), "batch")
    assert {outcome.kind for outcome in outcomes} == {"answered"} and unsure == 0
    assert len(fake.batches) == 1
