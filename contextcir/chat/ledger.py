"""What was asked, what came back and what it cost: one SQLite file in the output folder, one row for each request.

A row is planned, then sent with a bound of its cost set aside, then answered or failed with a kind, in one transaction
each. So a run that is killed at any moment goes on where it was; an answered request is never sent again; and what was
spent plus what is set aside never passes the limit. A request that was on its way when a run died may have been
charged: what was set aside for it stays spent, as `lost_usd`, and the request is sent again. Left out: more than one
run on a folder at a time, which a lock refuses, and images, which stay where they are.
"""

import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

VERSION = 1  # of the tables
SETTLED = ("answered", "failed")
TEMPORARY = "failed"  # the one kind of failure that another run may do away with; a refusal stands

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


class LedgerError(ValueError):
    """An output folder that this run must not write to; the message says why and how to go on."""


class Entry(NamedTuple):
    """The row of one request. `answer` is JSON, set where answered."""

    id: str
    state: str
    kind: str
    model: str
    answer: str | None
    text: str
    error: str
    prompt_tokens: int
    completion_tokens: int
    usd: float
    batch: str | None


class Ledger:
    """
    The ledger of an output folder, which belongs to this run until it is closed.

    Args:
        folder (`str` or `os.PathLike`): Made where it does not exist.
        settings (`dict[str, Any]`): What all answers of the folder have in common, such as the model, its parameters
            and a hash of the prompts. Kept at the first use, compared afterwards.
        max_usd (`float`, *optional*): What this folder may cost, all runs together. No limit by default.

    Raises:
        [`LedgerError`]: Another run is in the folder, it was begun with other settings, or the file is damaged.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict[str, Any], max_usd: float | None = None):
        self.path = Path(folder) / "ledger.sqlite"
        self.max_usd = float("inf") if max_usd is None else max_usd
        self.in_flight = 0  # requests of this run with money set aside
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path.with_suffix(".lock"), timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise LedgerError(f"Another run is writing to {folder}. Wait for it, or choose another folder.") from None
        try:
            self._db = self._open()
            self._check_settings(settings)
            # What is to be paid at most if all that is on its way were charged
            self.committed_usd = self._db.execute(
                "select total(usd + lost_usd + reserved_usd) from requests"
            ).fetchone()[0]
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self.path, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise LedgerError(f"{self.path} cannot be opened ({error}). Check the folder's permissions.") from None
        try:
            # Without waiting for the disk at each answer: safe when a process dies, and whole when the machine does.
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = normal")
            db.executescript(_TABLES)
        except sqlite3.OperationalError as error:  # full, read-only or locked: what was paid for is in there
            db.close()
            raise LedgerError(
                f"{self.path} cannot be written ({error}). Check the disk, its permissions and other programs, and"
                " keep the file."
            ) from None
        except sqlite3.DatabaseError as error:
            db.close()
            raise LedgerError(f"{self.path} is not a ledger ({error}). Remove it, or choose another folder.") from None
        return db

    def _check_settings(self, settings: dict[str, Any]) -> None:
        new = {name: json.dumps(value, sort_keys=True) for name, value in {"ledger": VERSION, **settings}.items()}
        old = dict(self._db.execute("select name, value from settings"))
        if not old:
            self._db.executemany("insert into settings values (?, ?)", new.items())
            return
        changed = [
            f"{name}: {old.get(name, 'nothing')} before, {new.get(name, 'nothing')} now"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
        if changed:
            raise LedgerError(
                f"{self.path.parent} was begun with other settings ({'; '.join(changed)}). Choose another folder, go"
                f" back to the settings before, or remove {self.path.name} to start over and pay again."
            )

    def close(self) -> None:
        """Give the folder back. Money set aside stays so, as it may have been spent."""
        self._db.close()
        self._lock.release()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # --- a request ---------------------------------------------------------------------------------------------------

    def find(self, request_id: str) -> Entry | None:
        """The row of a request."""
        row = self._db.execute(
            f"select {', '.join(Entry._fields)} from requests where id = ?", [request_id]
        ).fetchone()
        return row and Entry(*row)

    def plan(self, request_id: str, role: str, attempt: int) -> None:
        """Note a request that is going to be sent; nothing happens where there is a row."""
        self._db.execute(
            "insert or ignore into requests (id, role, attempt, state, planned_at) values (?, ?, ?, 'planned', ?)",
            [request_id, role, attempt, time.time()],
        )

    def reserve(self, request_id: str, usd: float, batch: str | None = None) -> bool:
        """
        Set money aside for a planned request, and call it sent.

        Args:
            request_id (`str`): The request. If it is on its way already, by a run that died, that money is lost.
            usd (`float`): The most that it may cost.
            batch (`str`, *optional*): The batch that it goes with.

        Returns:
            `bool`: Whether the limit allows it; if not, nothing is changed.
        """
        if self.committed_usd + usd > self.max_usd:
            return False
        self._db.execute(
            "update requests set state = 'sent', kind = '', error = '', lost_usd = lost_usd + reserved_usd,"
            " reserved_usd = ?, batch = ?, sends = sends + 1, sent_at = ? where id = ?",
            [usd, batch, time.time(), request_id],
        )
        self.committed_usd += usd
        self.in_flight += 1
        return True

    def adopt(self) -> None:
        """Count a request as on its way that is not sent by this run: an earlier one did, or it cannot be sent."""
        self.in_flight += 1

    def release(self, request_id: str, lost_usd: float = 0.0) -> None:
        """Call a sent request planned again, since the server has not taken it; `lost_usd` was spent all the same."""
        self._settle(request_id, 0.0, lost_usd, state="planned", batch=None)

    def settle(
        self,
        request_id: str,
        kind: str,
        *,
        model: str = "",
        answer: str | None = None,
        text: str = "",
        error: str = "",
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        usd: float = 0.0,
        lost_usd: float = 0.0,
    ) -> None:
        """Note what became of a sent request, and what it cost in place of what was set aside."""
        self._settle(
            request_id,
            usd,
            lost_usd,
            state="answered" if kind == "answered" else "failed",
            kind=kind,
            model=model,
            answer=answer,
            text=text,
            error=error,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            settled_at=time.time(),
        )

    def _settle(self, request_id: str, usd: float, lost_usd: float, **columns) -> None:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        (reserved,) = self._db.execute("select reserved_usd from requests where id = ?", [request_id]).fetchone()
        self._db.execute(
            f"update requests set {assignments}, usd = usd + ?, lost_usd = lost_usd + ?, reserved_usd = 0"
            " where id = ?",
            [*columns.values(), usd, lost_usd, request_id],
        )
        self.committed_usd += usd + lost_usd - reserved
        self.in_flight -= 1

    # --- batches -----------------------------------------------------------------------------------------------------

    def open_batch(self, key: str) -> None:
        """Note a batch before the server hears of it, under a key that the server keeps with it."""
        self._db.execute("insert into batches values (?, null, ?)", [key, time.time()])

    def name_batch(self, key: str, server_id: str) -> None:
        """Note what the server calls a batch."""
        self._db.execute("update batches set server_id = ? where key = ?", [server_id, key])

    def batch_name(self, key: str) -> str | None:
        """What the server calls a batch; `None` where this run's predecessor died before it heard."""
        return self._db.execute("select server_id from batches where key = ?", [key]).fetchone()[0]

    # --- reports -----------------------------------------------------------------------------------------------------

    @property
    def spent_usd(self) -> float:
        """What settled requests have cost, in USD."""
        return self._db.execute("select total(usd) from requests").fetchone()[0]

    @property
    def unsure_usd(self) -> float:
        """What requests without an answer may have cost beside that: on their way, timed out, or sent by a run that
        was killed. Part of what `max_usd` bounds."""
        return self._db.execute("select total(lost_usd + reserved_usd) from requests").fetchone()[0]

    def report(self) -> list[dict[str, Any]]:
        """Rows of `role`, `state`, `kind`, `requests`, `sends`, `prompt_tokens`, `completion_tokens`, `usd`."""
        rows = self._db.execute(
            "select role, state, kind, count(*), sum(sends), sum(prompt_tokens), sum(completion_tokens), total(usd)"
            " from requests group by role, state, kind order by role, state, kind"
        )
        names = ("role", "state", "kind", "requests", "sends", "prompt_tokens", "completion_tokens", "usd")
        return [dict(zip(names, row, strict=True)) for row in rows]
