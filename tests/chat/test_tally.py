"""Outcomes by role: why some failed, and when to give up."""

import pytest

from contextcir.chat.exchange import ChatStop, Outcome
from contextcir.chat.tally import GIVE_UP_AFTER, SHARE, WINDOW, Tally

give_up = pytest.mark.fault("G02", "a run stops, to go on later, if a role answers nothing or its server goes down")


def add(tally, kind, count=1, role="verifier", error="", same=False, **options):
    for number in range(count):
        id_ = "the same" if same else f"{role} {kind} {tally.total(role) + number}"
        tally.add(role, Outcome(kind, error=error.format(number), request_id=id_, **options))


@give_up
@pytest.mark.parametrize("kind", ["failed", "refused", "malformed"])
def test_a_role_that_answers_nothing(kind):
    tally = Tally()
    add(tally, kind, GIVE_UP_AFTER - 1, error="no such thing")
    with pytest.raises(ChatStop, match=f"none of its first {GIVE_UP_AFTER} .*{kind}: no such thing") as stop:
        add(tally, kind, error="no such thing")
    assert stop.value.exit_code == 3
    tally = Tally()
    add(tally, "answered", recalled=True)
    add(tally, kind, GIVE_UP_AFTER)
    assert tally.failed("verifier") == GIVE_UP_AFTER


@give_up
def test_one_request_that_many_pairs_share_is_one_failure():
    tally = Tally()
    add(tally, "failed", 3 * WINDOW, same=True)
    assert tally.failed("verifier") == 3 * WINDOW


@give_up
def test_a_server_that_goes_down():
    tally = Tally()
    add(tally, "answered", 1000)
    with pytest.raises(ChatStop, match=f"of the last {WINDOW} requests failed. .*: 503. Check the server") as stop:
        add(tally, "failed", WINDOW, error="503")
    assert stop.value.reason == "failing" and tally.failed("verifier") == SHARE * WINDOW
    add(tally, "answered")  # not raised by an answer: it may be up again
    tally = Tally()
    add(tally, "answered", 1000)
    add(tally, "refused", 2 * WINDOW)  # each of these is an answer


@pytest.mark.fault("G01", "a line for each role says how many questions failed, and what the server said most often")
def test_the_most_frequent_sentence_is_told_safely():
    tally = Tally()
    add(tally, "answered", 90)
    add(tally, "failed", 3, error="request {}f00ba411 took \x1b[31mtoo long\u202e")
    add(tally, "failed", 2, error="another")
    add(tally, "cut", 2, role="evaluator")
    add(tally, "answered", 5, role="captioner", recalled=True)
    assert tally.lines() == [
        "verifier: 90 answered, 5 failed (5 failed). Most often: failed: request 0f00ba411 took \\x1b[31mtoo long"
        "\\u202e.",
        "evaluator: 0 answered, 2 failed (2 cut). Most often: cut: no reason was given.",
        "captioner: 5 answered, 0 failed",
    ]
    assert tally.failures()["evaluator"] == {"failed": 2, "of": 2, "most_often": "cut: no reason was given."}
    assert tally.too_many(0.05) == "More than 5% failed: verifier 5 of 95; evaluator 2 of 2."
    assert tally.too_many(0.06) == "More than 6% failed: evaluator 2 of 2."
    assert tally.too_many(0.06, {"failed"}) == "" == tally.too_many(1.0)


@pytest.mark.fault("M03", "an answer whose usage cannot be believed is booked at the bound and counted")
def test_doubtful_answers_are_told():
    tally = Tally()
    add(tally, "answered", 2, doubtful=True)
    assert tally.lines()[0].startswith("verifier: 2 answered, 0 failed, 2 booked at the upper bound")
    assert tally.counts["verifier"]["doubtful"] == 2


def test_costs_count_once():
    tally = Tally()
    add(tally, "refused", usd=0.5)
    add(tally, "refused", usd=0.5, recalled=True)
    assert tally.counts["verifier"]["usd"] == 0.5
