"""A ledger that is damaged, of another version, or on a full disk: one sentence, and a way back."""

import hashlib
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from contextcir.chat.exchange import Outcome
from contextcir.chat.ledger import Ledger, LedgerError
from contextcir.chat.ledger_file import PAGE, rows_of
from contextcir.chat.ledger_recovery import recover

fault = pytest.mark.fault("G07", "a damaged ledger ends in one sentence, and what is whole in it is saved and counted")
SETTINGS = {"model": "m"}
ROWS = 400


def name(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def fill(folder, rows=ROWS):
    """A ledger with answers, and one request in a batch."""
    with Ledger(folder, SETTINGS) as ledger:
        for number in range(rows):
            ledger.plan(name(number), f"role {number % 2}", 0)
            ledger.reserve(name(number), 0.1)
            ledger.mark_sent(name(number))
            text = f"answer {number} with ä and 😀" * 9
            ledger.settle(name(number), Outcome("answered", text, text, model="m", usd=0.01))
    return folder / "ledger.sqlite"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("whole")).read_bytes()


def cut(content):
    return content[: len(content) // 2]


def overwritten(content):
    places = [len(content) * part // 5 // PAGE * PAGE for part in (1, 2, 3)]
    for place in places:
        content = content[:place] + os.urandom(PAGE) + content[place + PAGE :]
    return content


def without_header(content):
    return b"x" * PAGE + content[PAGE:]


def inner_page(content):
    """Without the first interior page of the tree, below which everything is out of reach."""
    (place,) = [place for place in range(5 * PAGE, 6 * PAGE, PAGE)]
    assert content[place] == 0x02
    return content[:place] + bytes(PAGE) + content[place + PAGE :]


def index(content):
    """Without the index of batches, in which no run looks at its start."""
    return content[: 6 * PAGE] + bytes(PAGE) + content[7 * PAGE :]


DAMAGES = {cut: 0.35, overwritten: 0.9, without_header: 1.0, inner_page: 0.95, index: 1.0}


@fault
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_whole_is_saved(tmp_path, whole, damage):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(damage(whole))
    damaged = path.read_bytes()
    with pytest.raises(LedgerError, match=f"{path} is damaged .*contextcir ledger recover {tmp_path}"):
        Ledger(tmp_path, SETTINGS)
    assert path.read_bytes() == damaged
    found = recover(path)
    assert found.kept.read_bytes() == damaged and found.kept.parent == tmp_path
    assert DAMAGES[damage] * ROWS <= found.saved <= ROWS
    assert found.saved + found.lost == pytest.approx(ROWS, abs=5)  # the last numbers may be among the lost
    with Ledger(tmp_path, SETTINGS) as ledger:
        right = [number for number in range(ROWS) if (row := ledger.find(name(number))) and row.state == "answered"]
        assert len(right) >= found.saved - 8
        assert all(ledger.find(name(number)).outcome(None).value.startswith(f"answer {number} ") for number in right)
        assert ledger.committed_usd == pytest.approx(0.01 * ROWS, rel=0.1)  # what was spent stays spent
        ledger.plan("new", "role", 0)
    again = recover(path)  # of a whole file: nothing changes, and nothing is lost twice
    assert again.saved == found.saved + 1 + bool(found.lost) and again.lost == 0


@fault
@pytest.mark.parametrize("content", [b"", b"x", b"no database " * 1000])
def test_a_file_that_is_no_ledger_at_all(tmp_path, content):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="is damaged .*ledger recover"):
        Ledger(tmp_path, SETTINGS)
    found = recover(path)
    assert (found.saved, found.lost) == (0, 0) and found.kept.read_bytes() == content
    Ledger(tmp_path, SETTINGS).close()


@fault
def test_a_recovered_ledger_knows_its_batches_and_its_log(tmp_path):
    """What a killed run left in the write-ahead log is saved, too."""
    code = f"""
import os
from contextcir.chat.ledger import Ledger
ledger = Ledger({str(tmp_path)!r}, {SETTINGS!r})
ledger.plan("a", "role", 0)
ledger.open_batch("key")
ledger.reserve("a", 0.5, batch="key")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    path = tmp_path / "ledger.sqlite"
    assert os.path.getsize(f"{path}-wal") > 0
    content = bytearray(path.read_bytes())
    content[:100] = b"x" * 100
    path.write_bytes(content)
    assert recover(path).saved == 1
    with Ledger(tmp_path, SETTINGS) as ledger:
        assert ledger.find("a").state == "sent" and ledger.batch_name("key") is None


@fault
def test_damage_that_shows_only_later(tmp_path, monkeypatch):
    """A page that is read in the middle of a run, and a disk that is full by then."""
    fill(tmp_path, 3)
    for words, advice in (("database disk image is malformed", "recover"), ("database or disk is full", "check the")):
        with Ledger(tmp_path, SETTINGS) as ledger:

            class Broken:
                close = ledger._db.close

                def execute(self, *_, words=words):
                    raise sqlite3.DatabaseError(words)

            ledger._db = Broken()
            for use in (lambda: ledger.find("a"), lambda: ledger.plan("a", "role", 0), ledger.report):
                with pytest.raises(LedgerError, match=f"ledger.sqlite .*{words}.*{advice}"):
                    use()


@fault
@pytest.mark.slow
def test_a_full_disk(tmp_path):
    """A real limit on the size of files."""
    code = f"""
import resource, signal
from contextcir.chat.exchange import Outcome
from contextcir.chat.ledger import Ledger, LedgerError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    with Ledger({str(tmp_path)!r}, {{}}) as ledger:
        for number in range(1000):
            ledger.plan(str(number), "role", 0)
            ledger.reserve(str(number), 0.1)
            ledger.settle(str(number), Outcome("answered", "x" * 2000))
except LedgerError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert len(out.splitlines()) == 1 and "keep it, check the disk" in out
    with Ledger(tmp_path, {}) as ledger:
        assert ledger.report()[0]["requests"] > 5


@fault
def test_rows_that_cannot_be_read_as_text(tmp_path, whole):
    path = tmp_path / "ledger.sqlite"
    place = whole.index(f"answer {7} with".encode())
    path.write_bytes(whole[:place] + b"\xff\xfe\xfd" + whole[place + 3 :])
    with Ledger(tmp_path, SETTINGS) as ledger, pytest.raises(LedgerError, match="ledger recover"):
        for number in range(ROWS):
            ledger.find(name(number))
    assert recover(path).saved == ROWS - 1


@pytest.mark.fault("G08", "a ledger of a newer version is left alone, and one of an older version goes on")
def test_other_versions(tmp_path):
    path = fill(tmp_path, 3)
    with closing(sqlite3.connect(path)) as db:
        db.execute("update settings set value = '9' where name = 'ledger'")
        db.commit()
    with pytest.raises(LedgerError, match="newer contextcir .version 9"):
        Ledger(tmp_path, SETTINGS)
    with closing(sqlite3.connect(path)) as db:  # as the first version made it
        for column in ("number", "doubtful", "bound_usd", "kills", "kill_usd"):
            db.execute(f"alter table requests drop column {column}")
        db.execute("update settings set value = '1' where name = 'ledger'")
        db.execute("update requests set state = 'sent', answer = null, reserved_usd = 0.5 where id = ?", [name(0)])
        db.commit()
    with Ledger(tmp_path, SETTINGS) as ledger:
        assert ledger.find(name(1)).state == "answered"
        assert ledger.killed() == {"requests": 1, "usd": 0.5, "most_usd": 0.5}
    assert sorted(row["number"] for row in rows_of(path, "select number from requests")) == [1, 2, 3]


@pytest.mark.fault("G08", "a ledger of a newer version is left alone, and one of an older version goes on")
def test_another_database_is_left_alone(tmp_path):
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db:
        db.execute("create table accounts (id)")
        db.commit()
    with pytest.raises(LedgerError, match="not a ledger"):
        Ledger(tmp_path, SETTINGS)
