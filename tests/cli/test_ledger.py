"""`contextcir ledger`: show what was asked and paid for, and save a damaged ledger."""

import sqlite3
from contextlib import closing

import pytest

from contextcir.chat.exchange import Outcome
from contextcir.chat.ledger import Ledger, LedgerError
from contextcir.chat.ledger_recovery import LOST
from contextcir.cli import ledger as command
from tests.chat.test_ledger_recovery import SETTINGS, fill


@pytest.mark.fault("G09", "`contextcir ledger show` prints requests, outcomes and cost by role, also during a run")
def test_show(tmp_path, capsys):
    with Ledger(tmp_path, SETTINGS) as ledger:
        for number, kind in enumerate(("answered", "answered", "refused", "failed")):
            ledger.plan(str(number), "verifier" if number else "reasoner", 0)
            ledger.reserve(str(number), 0.1)
            ledger.mark_sent(str(number))
            value = "x" if kind == "answered" else None
            ledger.settle(str(number), Outcome(kind, value, prompt_tokens=1000, usd=0.02, doubtful=number == 1))
        ledger.plan("flying", "verifier", 0)
        ledger.reserve("flying", 0.3)
        ledger.mark_sent("flying")
        assert command.main(["show", str(tmp_path)]) == 0
    lines = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["reasoner, answered"][-5:] == ["1", "1", "1,000", "0", "0.0200"]
    assert lines["verifier, in flight"][-5:] == ["1", "1", "0", "0", "0.0000"]
    assert {"verifier, answered", "verifier, refused", "verifier, failed"} <= lines.keys()
    assert lines["all"][-5:] == ["5", "5", "4,000", "0", "0.0800"]
    assert any("$0.3000" in key for key in lines) and any(key.startswith("1 requests came without") for key in lines)


@pytest.mark.fault("G09", "`contextcir ledger show` prints requests, outcomes and cost by role, also during a run")
def test_the_folder_of_imagescope_and_no_folder(tmp_path, capsys):
    for number in range(2):
        fill(tmp_path / f"answers-{number}", 3)
    command.main(["show", str(tmp_path)])
    assert capsys.readouterr().out.count("role 1, answered") == 2
    with pytest.raises(ValueError, match="holds no ledger.sqlite"):
        command.main(["show", str(tmp_path / "nothing")])
    with Ledger(tmp_path / "answers-0", SETTINGS), pytest.raises(LedgerError, match="A run is writing"):
        command.main(["recover", str(tmp_path)])


@pytest.mark.fault("G07", "a damaged ledger ends in one sentence, and what is whole in it is saved and counted")
def test_recover_says_what_it_found(tmp_path, capsys):
    path = fill(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert command.main(["recover", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "requests saved" in out and "known to be lost" in out and "ledger.damaged-1.sqlite" in out
    command.main(["show", str(tmp_path)])
    assert LOST in capsys.readouterr().out


@pytest.mark.fault("G08", "a ledger of a newer version is left alone, and one of an older version goes on")
def test_a_newer_version_is_not_shown(tmp_path):
    path = fill(tmp_path, 1)
    with closing(sqlite3.connect(path)) as db:
        db.execute("update settings set value = '9' where name = 'ledger'")
        db.commit()
    with pytest.raises(ValueError, match="version 9"):
        command.main(["show", str(tmp_path)])
