"""Requests in batches: their files, their ends, and what is sent again."""

import asyncio
import json

import pytest
from PIL import Image

from contextcir.chat import dispatch_batch
from contextcir.data.images import encode_image
from tests.chat.conftest import COST, ask_all, bound_of, interrupt, kinds, question, questions, run_on, texts
from tests.fake_chat_server import error


def ask_in_batches(folder, fake, requests, **options):
    return ask_all(folder, fake, requests, "batch", **options)


def test_requests_at_the_same_time_are_one_batch(tmp_path, fake):
    fake.looks = 2
    outcomes, *_ = ask_in_batches(tmp_path, fake, questions(10))
    assert [outcome.value for outcome in outcomes] == [f"echo question {place}" for place in range(10)]
    assert len(fake.batches) == 1


def test_requests_that_follow_from_answers_are_another_batch(tmp_path, fake):
    async def run():
        async with run_on(tmp_path, fake, "batch") as dispatcher:

            async def two(place):
                first = await dispatcher.ask(question(f"first {place}"))
                return await dispatcher.ask(question(f"then {first.value}"))

            return await asyncio.gather(*map(two, range(6)))

    assert asyncio.run(run())[5].value == "echo then echo first 5"
    assert len(fake.batches) == 2


def test_files_are_limited_in_requests_and_bytes(tmp_path, fake, monkeypatch):
    ask_in_batches(tmp_path / "a", fake, questions(10), batch_requests=4)
    assert len(fake.batches) == 3
    monkeypatch.setattr(dispatch_batch, "MAX_BYTES", 600)
    ask_in_batches(tmp_path / "b", fake, questions(10))
    sizes = [len(fake.files[batch["input_file_id"]]) for batch in list(fake.batches.values())[3:]]
    assert len(sizes) > 3 and max(sizes) <= 600
    before = len(fake.batches)
    monkeypatch.setattr(dispatch_batch, "MAX_BYTES", 10)
    outcomes, *_ = ask_in_batches(tmp_path / "c", fake, questions(3))  # each alone
    assert len(fake.batches) == before + 3
    assert set(kinds(outcomes)) == {"answered"}


def test_images_are_sent_in_batches(tmp_path, fake):
    image = encode_image(Image.new("RGB", (8, 8), "red"))
    (outcome,), *_ = ask_in_batches(tmp_path, fake, [question("look", images=(image,))])
    assert outcome.value == "echo look"


@pytest.mark.parametrize(
    ("status", "answered"), [("expired", 3), ("cancelled", 4), ("expired", 0), ("completed", 5), ("failed", None)]
)
def test_only_missing_answers_are_requested_again(tmp_path, fake, status, answered):
    fake.batch_ends.append((status, answered))
    outcomes, _, (spent, unsure), _ = ask_in_batches(tmp_path, fake, questions(8))
    assert [outcome.value for outcome in outcomes] == [f"echo question {place}" for place in range(8)]
    assert max(texts(fake.bodies).values()) == 1
    assert len(fake.batches) == 2
    assert spent == pytest.approx(8 * COST) and unsure == 0


@pytest.mark.parametrize("status", [429, 500, 408])
def test_temporary_errors_in_a_batch_are_sent_again(tmp_path, fake, status):
    fake.faults.append(error(status))
    outcomes, *_ = ask_in_batches(tmp_path, fake, questions(5))
    assert set(kinds(outcomes)) == {"answered"}
    assert sorted(texts(fake.bodies).values()) == [1, 1, 1, 1, 2]


def test_requests_fail_after_the_last_round(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(dispatch_batch, "MAX_ROUNDS", 3)
    fake.batch_error = {"code": "invalid", "message": "line 1 is no JSON", "line": 1, "param": None}
    fake.batch_ends.extend([("failed", None)] * 10)
    outcomes, _, spending, _ = ask_in_batches(tmp_path, fake, questions(3))
    assert kinds(outcomes) == ["failed"] * 3
    assert "failed line 1 is no JSON" in outcomes[0].error and outcomes[0].error.endswith("3")
    assert len(fake.batches) == 3
    assert spending == (0, 0)


def test_an_exhausted_quota_of_batches_stops_the_run(tmp_path, fake):
    fake.batch_error = {"code": "billing_hard_limit_reached", "message": "pay", "line": None, "param": None}
    fake.batch_ends.append(("failed", None))
    outcomes, _, spending, _ = ask_in_batches(tmp_path, fake, questions(3))
    assert kinds(outcomes) == ["quota"] * 3
    assert spending == (0, 0) and len(fake.batches) == 1
    outcomes, *_ = ask_in_batches(tmp_path, fake, questions(3))
    assert set(kinds(outcomes)) == {"answered"}


def test_a_batch_whose_response_was_lost_is_not_submitted_again(tmp_path, fake):
    fake.lost_batches = 1
    (stop, *_), _, (spent, unsure), _ = ask_in_batches(tmp_path, fake, questions(3), retries=5)
    assert stop.reason == "unreachable" and len(fake.batches) == 1 and spent == 0 and unsure > 0
    outcomes, _, (spent, unsure), _ = ask_in_batches(tmp_path, fake, questions(3))
    assert set(kinds(outcomes)) == {"answered"}
    assert len(fake.batches) == 1 and spent == pytest.approx(3 * COST) and unsure == 0


@pytest.mark.parametrize("submitted", [True, False])
def test_a_run_that_died_while_it_submitted_a_batch_finds_it_by_its_label(tmp_path, fake, monkeypatch, submitted):
    submit = dispatch_batch.submit_batch

    async def die(server, file, key):
        if submitted:
            await submit(server, file, key)
        raise KeyboardInterrupt

    fake.looks = 1
    with monkeypatch.context() as patch:
        patch.setattr(dispatch_batch, "submit_batch", die)
        with pytest.raises(KeyboardInterrupt):
            ask_in_batches(tmp_path, fake, questions(3))
    assert len(fake.batches) == submitted
    outcomes, _, (spent, unsure), _ = ask_in_batches(tmp_path, fake, questions(3))
    assert set(kinds(outcomes)) == {"answered"}
    assert len(fake.batches) == 1
    assert spent == pytest.approx(3 * COST) and unsure == 0


def leave_a_batch(folder, fake):
    """Interrupt a run whose batch of six requests is in progress."""
    fake.looks = 10**6
    seconds, states, unsure = interrupt(folder, fake, lambda: fake.batches, mode="batch")
    assert seconds < 2 and states == {"sent": 6} and unsure > 0
    fake.looks = 0


def test_an_interrupted_run_leaves_its_batch_in_progress(tmp_path, fake):
    leave_a_batch(tmp_path, fake)
    for batch in fake.batches.values():
        batch["looks"] = 0
    outcomes, _, (_, unsure), _ = ask_in_batches(tmp_path, fake, questions(6))
    assert set(kinds(outcomes)) == {"answered"} and unsure == 0
    assert len(fake.batches) == 1


def test_a_batch_that_is_gone_is_sent_again(tmp_path, fake):
    leave_a_batch(tmp_path, fake)
    fake.batches.clear()  # as with another key
    outcomes, *_ = ask_in_batches(tmp_path, fake, questions(6))
    assert set(kinds(outcomes)) == {"answered"}
    assert len(fake.batches) == 1


# --- what servers make of batches ------------------------------------------------------------------------------------

DAMAGES = {
    "blank lines": lambda lines: [b"", b"  ", *lines, b""],
    "broken": lambda lines: [lines[0][:30], *lines[1:]],
    "no id": lambda lines: [lines[0].replace(b'"custom_id"', b'"other"'), *lines[1:]],
    "an id that is a list": lambda lines: [json.dumps(json.loads(lines[0]) | {"custom_id": [1]}).encode(), *lines[1:]],
    "no object": lambda lines: [b"7", *lines[1:]],
    "a response that is a text": lambda lines: [
        json.dumps(json.loads(lines[0]) | {"response": "x"}).encode(),
        *lines[1:],
    ],
    "no UTF-8": lambda lines: [b"\xff\xfe\xfa", *lines[1:]],
    "levels": lambda lines: [b"[" * 100_000, *lines[1:]],
}


@pytest.mark.fault("C40", "a damaged line of a batch's answers is asked for again; it locks no folder")
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_lines_are_sent_again(tmp_path, fake, name):
    first = []

    def damage_once(lines):
        first.append(len(lines))
        return DAMAGES[name](lines) if len(first) == 1 else lines

    fake.damage = damage_once
    outcomes, _, (_, unsure), _ = ask_in_batches(tmp_path, fake, questions(4))
    assert [outcome.value for outcome in outcomes] == [f"echo question {place}" for place in range(4)]
    again = 0 if name == "blank lines" else 1
    assert len(fake.bodies) == 4 + again
    assert unsure == pytest.approx(again * bound_of(fake, question("question 0")))  # it was charged, perhaps
    fake.bodies.clear()
    outcomes, *_ = ask_in_batches(tmp_path, fake, questions(4))
    assert all(outcome.recalled for outcome in outcomes) and not fake.bodies


@pytest.mark.fault("C40", "a status that is a text, or missing beside an answer, is read as what it means")
@pytest.mark.parametrize("status", ["200", None])
def test_statuses_of_other_forms(tmp_path, fake, status):
    def change(lines):
        records = [json.loads(line) for line in lines]
        return [json.dumps(one | {"response": one["response"] | {"status_code": status}}).encode() for one in records]

    fake.damage = change
    outcomes, *_ = ask_in_batches(tmp_path, fake, questions(3))
    assert kinds(outcomes) == ["answered"] * 3 and len(fake.bodies) == 3


@pytest.mark.fault("C40", "lines that stay damaged make their requests fail, and no others")
def test_lines_that_stay_damaged(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(dispatch_batch, "MAX_ROUNDS", 2)
    fake.damage = lambda lines: [b"{", *lines[1:]]
    outcomes, *_ = ask_in_batches(tmp_path, fake, questions(3))
    assert sorted(kinds(outcomes)) == ["answered", "answered", "failed"]
    assert "1 unreadable" in next(outcome.error for outcome in outcomes if outcome.kind == "failed")


@pytest.mark.fault("C41", "a server that takes no batch of this size gets smaller ones, one after the other")
@pytest.mark.parametrize("most", [1, 3, 5])
def test_batches_are_made_smaller(tmp_path, fake, most):
    fake.most_enqueued, fake.looks = most, 2
    outcomes, _, (spent, unsure), _ = ask_in_batches(tmp_path, fake, questions(9))
    assert kinds(outcomes) == ["answered"] * 9
    assert max(texts(fake.bodies).values()) == 1 and spent == pytest.approx(9 * COST) and unsure == 0


@pytest.mark.fault("C41", "a server that takes no batch at all ends the run, which can be continued")
def test_a_server_that_takes_no_batch(tmp_path, fake):
    fake.most_enqueued = 0
    outcomes, _, spending, _ = ask_in_batches(tmp_path, fake, questions(3))
    assert kinds(outcomes) == ["quota"] * 3 and spending == (0, 0) and not fake.bodies
    fake.most_enqueued = None
    outcomes, *_ = ask_in_batches(tmp_path, fake, questions(3))
    assert kinds(outcomes) == ["answered"] * 3


@pytest.mark.parametrize("number", [0, 50_001])
def test_numbers_of_requests_that_no_batch_has(tmp_path, fake, number):
    with pytest.raises(ValueError, match="batch_requests"):
        ask_in_batches(tmp_path, fake, questions(1), batch_requests=number)


@pytest.mark.fault("C42", "an odd reply of the Batch API ends the run with one sentence, and the next run goes on")
@pytest.mark.parametrize(
    "odd",
    [
        {"id": None},
        {"errors": "x", "status": "failed"},
        {"errors": {"data": [7]}, "status": "failed"},
        {"status": None},
        {"output_file_id": 7},
        {"metadata": "x"},
        "text",
        [1],
    ],
)
def test_odd_replies_of_the_batch_api(tmp_path, fake, monkeypatch, odd):
    monkeypatch.setattr(dispatch_batch, "MAX_ROUNDS", 2)
    public, left = fake._public, [2]

    def change(batch):
        left[0] -= 1
        known = public(batch)
        return (known | odd if isinstance(odd, dict) else odd) if left[0] >= 0 else known

    fake._public = change
    outcomes, *_ = ask_in_batches(tmp_path, fake, questions(2))
    assert set(kinds(outcomes)) <= {"answered", "failed", "unreachable"}
    left[0] = 0
    outcomes, *_ = ask_in_batches(tmp_path, fake, questions(2))
    assert kinds(outcomes) == ["answered"] * 2
