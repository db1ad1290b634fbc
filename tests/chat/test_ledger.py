"""The ledger keeps every request and its cost, and lets one run at a time write to a folder."""

import re
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from contextcir.chat.exchange import Outcome
from contextcir.chat.ledger import Ledger, LedgerError
from tests.chat.conftest import Things

SETTINGS = {"model": "m", "temperature": 0.0, "prompts": "abc"}


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path, SETTINGS, max_usd=1.0) as ledger:
        yield ledger


def send(ledger, name, usd=0.1, **options):
    ledger.plan(name, "role", 0)
    if not ledger.reserve(name, usd, **options):
        return False
    ledger.mark_sent(name, **options)
    return True


def test_a_request_goes_through_its_states(ledger):
    assert ledger.find("a") is None
    ledger.plan("a", "role", 0)
    ledger.plan("a", "role", 0)
    assert ledger.find("a").state == "planned"
    assert ledger.reserve("a", 0.4)
    assert ledger.find("a").state == "planned" and ledger.committed_usd == 0.4  # until it really leaves
    ledger.mark_sent("a")
    assert ledger.find("a").state == "sent"
    assert (ledger.spent_usd, ledger.unsure_usd, ledger.in_flight) == (0, 0.4, 1)
    outcome = Outcome("answered", Things(things=["x"]), ' {"things": ["x"]}', "", "m-1", 7, 3, usd=0.1)
    ledger.settle("a", outcome)
    assert ledger.find("a").state == "answered"
    assert ledger.find("a").outcome(Things) == replace(outcome, request_id="a", recalled=True)
    assert (ledger.spent_usd, ledger.unsure_usd, ledger.in_flight) == (pytest.approx(0.1), 0, 0)


@pytest.mark.parametrize("kind", ["refused", "filtered", "cut", "malformed", "failed"])
def test_a_failure_has_a_kind(ledger, kind):
    send(ledger, "a")
    ledger.settle("a", Outcome(kind, error="why", usd=0.05))
    entry = ledger.find("a")
    assert (entry.state, entry.kind, entry.error, entry.answer) == ("failed", kind, "why", None)
    assert ledger.spent_usd == pytest.approx(0.05)


@pytest.mark.parametrize("value", ["", " x ", "null"])
def test_a_text_answer_is_kept_as_it_is(ledger, value):
    send(ledger, "a")
    ledger.settle("a", Outcome("answered", value))
    assert ledger.find("a").outcome(None).value == value


def test_rows_are_kept_for_the_next_run(tmp_path):
    with Ledger(tmp_path, SETTINGS) as ledger:
        send(ledger, "a")
        ledger.settle("a", Outcome("answered", "x", usd=0.02))
        send(ledger, "b")
    with Ledger(tmp_path, SETTINGS) as ledger:
        assert ledger.find("a").answer == '"x"'
        assert ledger.find("b").state == "planned"  # was sent, and is sent again
        assert ledger.spent_usd == pytest.approx(0.02)
        assert ledger.committed_usd == pytest.approx(0.12)


# --- the budget ------------------------------------------------------------------------------------------------------


def test_reservations_count_against_the_limit(ledger):
    assert send(ledger, "a", 0.6)
    assert not send(ledger, "b", 0.5)
    assert ledger.find("b").state == "planned"
    ledger.settle("a", Outcome("answered", usd=0.1))
    assert send(ledger, "b", 0.5)
    assert not send(ledger, "c", 0.5)
    assert send(ledger, "d", 0.4)


def test_a_released_request_costs_only_what_was_lost(ledger):
    send(ledger, "a", 0.6)
    ledger.release("a")
    assert ledger.find("a").state == "planned"
    assert (ledger.committed_usd, ledger.in_flight) == (0, 0)
    send(ledger, "a", 0.6)
    ledger.release("a", lost_usd=0.2)
    assert ledger.committed_usd == pytest.approx(0.2) == ledger.unsure_usd


def test_requests_in_flight_when_a_run_died_stay_spent(tmp_path):
    with Ledger(tmp_path, SETTINGS, max_usd=1.0) as ledger:
        send(ledger, "a", 0.4)
    with Ledger(tmp_path, SETTINGS, max_usd=1.0) as ledger:
        assert ledger.in_flight == 0
        assert not ledger.reserve("a", 0.7)
        assert send(ledger, "a", 0.4)
        ledger.settle("a", Outcome("answered", usd=0.1))
        assert ledger.spent_usd == pytest.approx(0.1)
        assert ledger.unsure_usd == pytest.approx(0.4)
        assert ledger.committed_usd == pytest.approx(0.5)
        assert ledger.report()[0]["sends"] == 2


def test_lost_attempts_count(ledger):
    send(ledger, "a", 0.2)
    ledger.settle("a", Outcome("failed", lost_usd=0.2))
    send(ledger, "a", 0.2)
    ledger.settle("a", Outcome("answered", usd=0.1))
    assert ledger.spent_usd == pytest.approx(0.1)
    assert ledger.unsure_usd == pytest.approx(0.2)


def test_there_is_no_limit_by_default(tmp_path):
    with Ledger(tmp_path, SETTINGS) as ledger:
        assert send(ledger, "a", 1e9)


# --- one run at a time -----------------------------------------------------------------------------------------------


def test_a_second_run_on_a_folder_is_refused(tmp_path, ledger):
    with pytest.raises(LedgerError, match=str(tmp_path)):
        Ledger(tmp_path, SETTINGS)
    code = f"from contextcir.chat.ledger import Ledger; Ledger({str(tmp_path)!r}, {SETTINGS!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1 and re.search(f"LedgerError: .*{tmp_path}", run.stderr)


def test_the_lock_is_released_when_the_ledger_is_closed_or_refused(tmp_path):
    for settings in (SETTINGS, {"model": "other"}):
        try:
            Ledger(tmp_path, settings).close()
        except LedgerError:
            pass
    Ledger(tmp_path, SETTINGS).close()


def test_other_settings_are_refused_with_both_values(tmp_path):
    with Ledger(tmp_path / "out", SETTINGS) as ledger:
        send(ledger, "a")
        ledger.settle("a", Outcome("answered", "x"))
    other = {"model": "n", "prompts": "abc", "max_tokens": 5}
    with pytest.raises(LedgerError) as caught:
        Ledger(tmp_path / "out", other)
    message = str(caught.value)
    for setting in ('model: "m".*"n"', "temperature: 0.0.*nothing", "max_tokens: nothing.*5", "ledger.sqlite"):
        assert re.search(setting, message)
    assert "prompts" not in message
    Ledger(tmp_path / "out", dict(reversed(SETTINGS.items()))).close()


settings_may_change = pytest.mark.fault(
    "G06", "settings may change while nothing is answered, and temperature and max_tokens at any time"
)


@settings_may_change
def test_settings_may_change_while_nothing_is_answered(tmp_path):
    with Ledger(tmp_path, SETTINGS) as ledger:
        send(ledger, "a")
        ledger.settle("a", Outcome("failed", error="503"))
    other = {"model": "n", "more": 1}
    with Ledger(tmp_path, other) as ledger:
        send(ledger, "a")
        ledger.settle("a", Outcome("answered", "x"))
    Ledger(tmp_path, other).close()
    with pytest.raises(LedgerError, match='model: "n" before, "m" now'):
        Ledger(tmp_path, SETTINGS)


@settings_may_change
def test_parameters_of_each_request_may_change_at_any_time(tmp_path, caplog):
    with Ledger(tmp_path, SETTINGS | {"max_tokens": 50}) as ledger:
        send(ledger, "a")
        ledger.settle("a", Outcome("answered", "x"))
    for settings in ({"temperature": 0.7, "max_tokens": 90}, {"max_tokens": 90}):
        settings = {"model": "m", "prompts": "abc", **settings}
        with Ledger(tmp_path, settings) as ledger:
            assert ledger.find("a").state == "answered"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and all(
        text in said[0] for text in ("temperature: 0.0 before, 0.7", "max_tokens: 50", "1 answer")
    )
    with pytest.raises(LedgerError, match="prompts"):
        Ledger(tmp_path, settings | {"prompts": "other"})


def test_a_file_that_is_not_a_ledger_is_refused(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"something else" * 1000)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite .*file is not a database.*contextcir ledger recover"):
        Ledger(tmp_path, SETTINGS)


def test_an_error_of_the_disk_is_reported(tmp_path, monkeypatch):
    def connect(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite .*database or disk is full"):
        Ledger(tmp_path, {})


def test_the_limit_may_change(tmp_path):
    with Ledger(tmp_path, SETTINGS, max_usd=0.1) as ledger:
        assert not send(ledger, "a", 0.2)
    with Ledger(tmp_path, SETTINGS, max_usd=0.3) as ledger:
        assert send(ledger, "a", 0.2)


def test_the_file_can_be_read_during_a_run(tmp_path, ledger):
    send(ledger, "a")
    with sqlite3.connect(tmp_path / "ledger.sqlite") as reader:
        assert reader.execute("select id, state from requests").fetchall() == [("a", "sent")]
        assert reader.execute("pragma journal_mode").fetchone() == ("wal",)


# --- batches and reports ---------------------------------------------------------------------------------------------


def test_a_batch_is_recorded_before_the_server_has_it(ledger):
    ledger.open_batch("key")
    send(ledger, "a", batch="key")
    assert ledger.find("a").batch == "key"
    assert ledger.batch_name("key") is None
    ledger.name_batch("key", "batch-1")
    assert ledger.batch_name("key") == "batch-1"
    ledger.release("a")
    assert ledger.find("a").batch is None


def test_the_report_counts_by_role_and_kind(ledger):
    for place, (role, kind) in enumerate([("x", "answered"), ("x", "answered"), ("x", "cut"), ("y", "failed")]):
        ledger.plan(str(place), role, 0)
        ledger.reserve(str(place), 0.1)
        ledger.settle(str(place), Outcome(kind, prompt_tokens=10, completion_tokens=1, usd=0.01))
    ledger.plan("later", "y", 0)
    rows = {(row["role"], row["state"], row["kind"]): row for row in ledger.report()}
    others = {("x", "failed", "cut"): 1, ("y", "failed", "failed"): 1, ("y", "planned", ""): 1}
    assert {key: row["requests"] for key, row in rows.items()} == {("x", "answered", "answered"): 2, **others}
    both = rows["x", "answered", "answered"]
    assert (both["prompt_tokens"], both["completion_tokens"], both["usd"]) == (20, 2, pytest.approx(0.02))
