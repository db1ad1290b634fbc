"""The file of a ledger: its tables, how it is opened and checked, and errors of SQLite in one sentence.

A new file appears whole or not at all, so an empty one has been cut. Left out: checksums of single answers, which
SQLite does not have; a changed letter inside of a text is not noticed.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

NAME = "ledger.sqlite"
VERSION = 2  # of the tables
PAGE = 4096  # bytes
DAMAGE = ("malformed", "not a database", "decode")  # in messages; Python has no codes before 3.11

_TABLES = """
create table if not exists settings (name text primary key, value text not null);
create table if not exists batches (key text primary key, server_id text, created_at real not null);
create table if not exists requests (
    id text primary key,
    role text not null,
    attempt integer not null,
    state text not null check (state in ('planned', 'sent', 'answered', 'failed')),
    kind text not null default '',
    model text not null default '',
    answer text,
    text text not null default '',
    error text not null default '',
    prompt_tokens integer not null default 0,
    completion_tokens integer not null default 0,
    reserved_usd real not null default 0,
    usd real not null default 0,
    lost_usd real not null default 0,
    sends integer not null default 0,
    batch text references batches (key),
    planned_at real not null,
    sent_at real,
    settled_at real
) without rowid;
create index if not exists requests_of_a_batch on requests (batch) where batch is not null;
"""
_SINCE_VERSION_2 = {
    "number": "integer not null default 0",  # in the order of planning: gaps tell how many rows a damaged file lost
    "doubtful": "integer not null default 0",  # 1: the server's usage could not be believed, `usd` is the upper bound
    "bound_usd": "real not null default 0",  # the estimate of one send
    "kills": "integer not null default 0",  # sends that were in flight when a run ended
    "kill_usd": "real not null default 0",  # the most that these may have cost
}


class LedgerError(ValueError):
    """An output folder that this run must not write to; the message says why, and how to continue."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise errors of SQLite as a [`LedgerError`] that names the file and the way back."""
    try:
        yield
    except sqlite3.Error as error:
        if any(word in str(error) for word in DAMAGE):
            raise _damaged(path, str(error)) from None
        raise LedgerError(  # full, read-only or locked
            f"{path} cannot be read or written ({error}). It holds answers that were paid for: keep it, check the"
            " disk, its permissions and other programs, and run again."
        ) from None


def _damaged(path: Path, why: str) -> LedgerError:
    return LedgerError(
        f"{path} is damaged ({why}). `contextcir ledger recover {path.parent}` saves all answers that are whole, and"
        " keeps the damaged file."
    )


def open_file(path: Path) -> sqlite3.Connection:
    """
    Open a ledger, made if missing, and bring its tables up to date.

    Raises:
        [`LedgerError`]: The file is damaged, of a newer version, or cannot be written.
    """
    with explained(path):
        if not path.exists():
            create_file(path)
        if (size := path.stat().st_size) < PAGE:  # SQLite would take it for a new one
            raise _damaged(path, f"it has {size} bytes")
        db = sqlite3.connect(path, isolation_level=None)
        try:
            # Does not wait for the disk at each answer: safe if the process dies, consistent if the machine does.
            db.executescript("pragma journal_mode = wal; pragma synchronous = normal;")
            (verdict,) = db.execute("pragma quick_check(1)").fetchone()
            if verdict != "ok":
                raise _damaged(path, " ".join(verdict.split()))
            _upgrade(db, path)
        except BaseException:
            db.close()
            raise
        return db


def create_file(path: Path) -> None:
    """Create an empty ledger."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.executescript(f"pragma page_size = {PAGE}; pragma journal_mode = wal; begin; {_TABLES} commit;")
        _add_columns(db)
    os.replace(new, path)


def _upgrade(db: sqlite3.Connection, path: Path) -> None:
    tables = {name for (name,) in db.execute("select name from sqlite_master where type = 'table'")}
    if not tables >= {"settings", "requests"}:
        raise LedgerError(f"{path} is a database, and not a ledger. Choose another folder.")
    version = db.execute("select value from settings where name = 'ledger'").fetchone()
    if version and int(version[0]) > VERSION:
        raise LedgerError(
            f"{path} was written by a newer contextcir (version {version[0]} of its tables, this one knows"
            f" {VERSION}). Install the newer one, or choose another folder."
        )
    if _add_columns(db):
        db.executescript(
            "begin;"
            "update requests set bound_usd = reserved_usd where state = 'sent';"
            f"{numbered('planned_at')};"
            f"update settings set value = '{VERSION}' where name = 'ledger'; commit;"
        )


def numbered(order: str) -> str:
    """Return a statement that numbers all requests in an order."""
    places = f"select id, row_number() over (order by {order}) as place from requests"
    return f"update requests set number = places.place from ({places}) as places where places.id = requests.id"


def _add_columns(db: sqlite3.Connection) -> bool:
    """Add the columns that a ledger of version 1 does not have. Return whether there were any."""
    known = {row[1] for row in db.execute("pragma table_info(requests)")}
    missing = [name for name in _SINCE_VERSION_2 if name not in known]
    for name in missing:
        db.execute(f"alter table requests add column {name} {_SINCE_VERSION_2[name]}")
    return bool(missing)


def rows_of(path: Path, query: str, values: Any = ()) -> list[dict[str, Any]]:
    """Return the rows of a query, by the names of their columns, without writing: a run may be going on."""
    with explained(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        cursor = db.execute(query, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]
