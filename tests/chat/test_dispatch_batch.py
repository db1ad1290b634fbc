"""Requests in batches: their files, their ends, and what is sent again."""

import asyncio

import pytest
from PIL import Image

from contextcir.chat import dispatch_batch
from contextcir.data.images import encode_image
from tests.chat.conftest import COST, ask_all, interrupt, kinds, question, questions, run_on, texts
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
