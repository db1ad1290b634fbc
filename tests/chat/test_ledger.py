"""What the ledger says after anything that may happen to it, and who may write to it."""

import sqlite3
import subprocess
import sys

import pytest

from contextcir.chat.ledger import Ledger, LedgerError

SETTINGS = {"model": "m", "temperature": 0.0, "prompts": "abc"}


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path, SETTINGS, max_usd=1.0) as ledger:
        yield ledger


def send(ledger, name, usd=0.1, **options):
    ledger.plan(name, "role", 0)
    return ledger.reserve(name, usd, **options)


def test_a_request_goes_through_its_states(ledger):
    assert ledger.find("a") is None
    ledger.plan("a", "role", 0)
    ledger.plan("a", "role", 0)
    assert ledger.find("a").state == "planned"
    assert ledger.reserve("a", 0.4)
    assert ledger.find("a").state == "sent"
    assert (ledger.spent_usd, ledger.unsure_usd, ledger.in_flight) == (0, 0.4, 1)
    numbers = {"prompt_tokens": 7, "completion_tokens": 3, "usd": 0.1}
    ledger.settle("a", "answered", model="m-1", answer='{"x": 1}', text=' {"x": 1}', **numbers)
    entry = ledger.find("a")
    assert (entry.state, entry.kind, entry.model, entry.answer) == ("answered", "answered", "m-1", '{"x": 1}')
    assert (entry.text, entry.prompt_tokens, entry.completion_tokens, entry.usd) == (' {"x": 1}', 7, 3, 0.1)
    assert (ledger.spent_usd, ledger.unsure_usd, ledger.in_flight) == (pytest.approx(0.1), 0, 0)


@pytest.mark.parametrize("kind", ["refused", "filtered", "cut", "malformed", "failed"])
def test_a_failure_has_a_kind(ledger, kind):
    send(ledger, "a")
    ledger.settle("a", kind, error="why", usd=0.05)
    entry = ledger.find("a")
    assert (entry.state, entry.kind, entry.error, entry.answer) == ("failed", kind, "why", None)
    assert ledger.spent_usd == pytest.approx(0.05)


def test_everything_is_there_the_next_time(tmp_path):
    with Ledger(tmp_path, SETTINGS) as ledger:
        send(ledger, "a")
        ledger.settle("a", "answered", answer='"x"', usd=0.02)
        send(ledger, "b")
    with Ledger(tmp_path, SETTINGS) as ledger:
        assert ledger.find("a").answer == '"x"'
        assert ledger.find("b").state == "sent"
        assert ledger.spent_usd == pytest.approx(0.02)
        assert ledger.committed_usd == pytest.approx(0.12)


# --- the budget ------------------------------------------------------------------------------------------------------


def test_reservations_count_against_the_limit(ledger):
    assert send(ledger, "a", 0.6)
    assert not send(ledger, "b", 0.5)
    assert ledger.find("b").state == "planned"
    ledger.settle("a", "answered", usd=0.1)
    assert send(ledger, "b", 0.5)
    assert not send(ledger, "c", 0.5)
    assert send(ledger, "d", 0.4)


def test_a_released_request_costs_nothing_but_what_it_did(ledger):
    send(ledger, "a", 0.6)
    ledger.release("a")
    assert ledger.find("a").state == "planned"
    assert (ledger.committed_usd, ledger.in_flight) == (0, 0)
    send(ledger, "a", 0.6)
    ledger.release("a", lost_usd=0.2)
    assert ledger.committed_usd == pytest.approx(0.2) == ledger.unsure_usd


def test_what_was_on_its_way_when_a_run_died_stays_spent(tmp_path):
    with Ledger(tmp_path, SETTINGS, max_usd=1.0) as ledger:
        send(ledger, "a", 0.4)
    with Ledger(tmp_path, SETTINGS, max_usd=1.0) as ledger:
        assert ledger.in_flight == 0
        assert not ledger.reserve("a", 0.7)
        assert ledger.reserve("a", 0.4)
        ledger.settle("a", "answered", usd=0.1)
        assert ledger.spent_usd == pytest.approx(0.1)
        assert ledger.unsure_usd == pytest.approx(0.4)
        assert ledger.committed_usd == pytest.approx(0.5)
        assert ledger.report()[0]["sends"] == 2


def test_lost_attempts_count(ledger):
    send(ledger, "a", 0.2)
    ledger.settle("a", "failed", lost_usd=0.2)
    send(ledger, "a", 0.2)
    ledger.settle("a", "answered", usd=0.1)
    assert ledger.spent_usd == pytest.approx(0.1)
    assert ledger.unsure_usd == pytest.approx(0.2)


def test_without_a_limit_all_is_allowed(tmp_path):
    with Ledger(tmp_path, SETTINGS) as ledger:
        assert send(ledger, "a", 1e9)


# --- who may write ---------------------------------------------------------------------------------------------------


def test_two_runs_on_a_folder(tmp_path, ledger):
    with pytest.raises(LedgerError, match="Another run is writing to .* Wait for it, or choose another folder"):
        Ledger(tmp_path, SETTINGS)
    code = f"from contextcir.chat.ledger import Ledger; Ledger({str(tmp_path)!r}, {SETTINGS!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1 and "Another run is writing" in run.stderr


def test_the_lock_goes_with_whoever_holds_it(tmp_path):
    for settings in (SETTINGS, {"model": "other"}):
        try:
            Ledger(tmp_path, settings).close()
        except LedgerError:
            pass
    Ledger(tmp_path, SETTINGS).close()


def test_other_settings_are_refused_with_both_values(tmp_path):
    Ledger(tmp_path / "out", SETTINGS).close()
    other = {"model": "n", "prompts": "abc", "max_tokens": 5}
    with pytest.raises(LedgerError) as caught:
        Ledger(tmp_path / "out", other)
    said = str(caught.value)
    assert 'model: "m" before, "n" now' in said
    assert "temperature: 0.0 before, nothing now" in said
    assert "max_tokens: nothing before, 5 now" in said
    assert "prompts" not in said
    assert "Choose another folder, go back to the settings before, or remove ledger.sqlite" in said
    Ledger(tmp_path / "out", dict(reversed(SETTINGS.items()))).close()


def test_a_file_that_is_no_ledger(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(LedgerError, match="is not a ledger"):
        Ledger(tmp_path, SETTINGS)


def test_a_ledger_that_cannot_be_written_is_not_to_be_removed(tmp_path, monkeypatch):
    def connect(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(LedgerError, match=r"cannot be opened \(database or disk is full\). Check"):
        Ledger(tmp_path, {})


def test_a_new_limit_is_no_other_setting(tmp_path):
    with Ledger(tmp_path, SETTINGS, max_usd=0.1) as ledger:
        assert not send(ledger, "a", 0.2)
    with Ledger(tmp_path, SETTINGS, max_usd=0.3) as ledger:
        assert send(ledger, "a", 0.2)


def test_the_file_can_be_read_beside_a_run(tmp_path, ledger):
    send(ledger, "a")
    with sqlite3.connect(tmp_path / "ledger.sqlite") as reader:
        assert reader.execute("select id, state from requests").fetchall() == [("a", "sent")]
        assert reader.execute("pragma journal_mode").fetchone() == ("wal",)


# --- batches and reports ---------------------------------------------------------------------------------------------


def test_a_batch_holds_requests_before_the_server_knows_it(ledger):
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
        ledger.settle(str(place), kind, prompt_tokens=10, completion_tokens=1, usd=0.01)
    ledger.plan("later", "y", 0)
    rows = {(row["role"], row["state"], row["kind"]): row for row in ledger.report()}
    assert {key: row["requests"] for key, row in rows.items()} == {
        ("x", "answered", "answered"): 2,
        ("x", "failed", "cut"): 1,
        ("y", "failed", "failed"): 1,
        ("y", "planned", ""): 1,
    }
    both = rows["x", "answered", "answered"]
    assert (both["prompt_tokens"], both["completion_tokens"], both["usd"]) == (20, 2, pytest.approx(0.02))
