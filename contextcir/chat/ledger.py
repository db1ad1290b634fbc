"""The ledger of an output folder: requests, outcomes and costs, in one SQLite file with one row per request.

A request is first planned, then sent with an upper bound of its cost reserved, then answered or failed. Each step is
one transaction. So a run that is killed at any moment can be continued; an answered request is never sent again; and
the costs plus the reservations never exceed the limit. A request that was in flight when a run died may have been
charged: its reservation stays spent as `lost_usd`, and it is sent again. Left out: several runs on one folder at the
same time, which a lock prevents, and images, which stay in their files.
"""

import json
import os
import sqlite3
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from pydantic import BaseModel

from contextcir.chat.exchange import Outcome

VERSION = 1  # of the tables
SETTLED = ("answered", "failed")
TEMPORARY = "failed"  # the only kind of failure that is sent again by the next run

_COPIED = ("kind", "model", "text", "error", "prompt_tokens", "completion_tokens")  # from an outcome, as they are
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
    """An output folder that this run must not write to; the message says why, and how to continue."""


class Entry(NamedTuple):
    """The row of one request. `answer` is JSON, set if answered."""

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

    def outcome(self, schema: type[BaseModel] | None) -> Outcome:
        """Return the recorded outcome of a settled request, with its answer as an instance of `schema` or a text."""
        value = None
        if self.answer is not None:
            value = schema.model_validate_json(self.answer) if schema else json.loads(self.answer)
        copied = {name: getattr(self, name) for name in (*_COPIED, "usd")}
        return Outcome(value=value, request_id=self.id, recalled=True, **copied)


class Ledger(AbstractContextManager):
    """
    The ledger of an output folder. The folder belongs to this run until the ledger is closed.

    Args:
        folder (`str` or `os.PathLike`): Created if missing.
        settings (`dict[str, Any]`): Settings that all answers in the folder share, such as the model, its parameters
            and a hash of the prompts. Recorded at the first use, compared afterwards.
        max_usd (`float`, *optional*): Limit of the cost of this folder, over all runs. No limit by default.

    Raises:
        [`LedgerError`]: Another run uses the folder, it was started with other settings, or the file is damaged.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict[str, Any], max_usd: float | None = None):
        self.path = Path(folder) / "ledger.sqlite"
        self.max_usd = float("inf") if max_usd is None else max_usd
        self.in_flight = 0  # requests of this run with a reservation
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path.with_suffix(".lock"), timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise LedgerError(f"Another run is writing to {folder}. Wait for it, or choose another folder.") from None
        try:
            self._db = self._open()
            self._check_settings(settings)
            # The most that is to be paid if all requests in flight are charged
            self.committed_usd = self._total("usd + lost_usd + reserved_usd")
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self.path, isolation_level=None)
            # Does not wait for the disk at each answer: safe if the process dies, consistent if the machine does.
            db.executescript("pragma journal_mode = wal; pragma synchronous = normal;" + _TABLES)
            return db
        except sqlite3.OperationalError as error:  # full, read-only or locked: the file holds answers that were paid
            raise LedgerError(
                f"{self.path} cannot be written ({error}). Check the disk, its permissions and other programs, and"
                " keep the file."
            ) from None
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{self.path} is not a ledger ({error}). Remove it, or choose another folder.") from None

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
                f"{self.path.parent} was started with other settings ({'; '.join(changed)}). Choose another folder,"
                f" restore the earlier settings, or remove {self.path.name} to start over and pay again."
            )

    def _total(self, columns: str) -> float:
        return self._db.execute(f"select total({columns}) from requests").fetchone()[0]

    def close(self) -> None:
        """Release the folder. Reservations of requests in flight are kept, since these may have been charged."""
        self._db.close()
        self._lock.release()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- a request ---------------------------------------------------------------------------------------------------

    def find(self, request_id: str) -> Entry | None:
        """Return the row of a request."""
        row = self._db.execute(
            f"select {', '.join(Entry._fields)} from requests where id = ?", [request_id]
        ).fetchone()
        return row and Entry(*row)

    def plan(self, request_id: str, role: str, attempt: int) -> None:
        """Record a request before it is sent. An existing row is left as it is."""
        self._db.execute(
            "insert or ignore into requests (id, role, attempt, state, planned_at) values (?, ?, ?, 'planned', ?)",
            [request_id, role, attempt, time.time()],
        )

    def reserve(self, request_id: str, usd: float, batch: str | None = None) -> bool:
        """
        Reserve the cost of a planned request, and mark it as sent.

        Args:
            request_id (`str`): The request. An earlier reservation, by a run that died, counts as lost.
            usd (`float`): An upper bound of its cost.
            batch (`str`, *optional*): The key of its batch.

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
        """Count a request as in flight that this run does not send: it was sent earlier, or cannot be sent."""
        self.in_flight += 1

    def release(self, request_id: str, lost_usd: float = 0.0) -> None:
        """Mark a sent request as planned again, since the server did not accept it; `lost_usd` was still charged."""
        self._settle(request_id, 0.0, lost_usd, state="planned", batch=None)

    def settle(self, request_id: str, outcome: Outcome) -> None:
        """Record the outcome of a sent request, and replace its reservation by its cost."""
        answer = outcome.value
        if answer is not None:
            answer = json.dumps(answer) if isinstance(answer, str) else answer.model_dump_json()
        self._settle(
            request_id,
            outcome.usd,
            outcome.lost_usd,
            state="answered" if outcome.kind == "answered" else "failed",
            answer=answer,
            settled_at=time.time(),
            **{name: getattr(outcome, name) for name in _COPIED},
        )

    def _settle(self, request_id: str, usd: float, lost_usd: float, **columns: Any) -> None:
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
        """Record a batch before it is submitted, under a key that the server stores as its label."""
        self._db.execute("insert into batches values (?, null, ?)", [key, time.time()])

    def name_batch(self, key: str, server_id: str) -> None:
        """Record the server's id of a batch."""
        self._db.execute("update batches set server_id = ? where key = ?", [server_id, key])

    def batch_name(self, key: str) -> str | None:
        """Return the server's id of a batch; `None` if an earlier run died before it received the id."""
        return self._db.execute("select server_id from batches where key = ?", [key]).fetchone()[0]

    # --- reports -----------------------------------------------------------------------------------------------------

    @property
    def spent_usd(self) -> float:
        """`float`: The cost of settled requests, in USD."""
        return self._total("usd")

    @property
    def unsure_usd(self) -> float:
        """`float`: An upper bound of what requests without an answer may have cost: those in flight, timed out, or
        sent by a run that was killed. Included in what `max_usd` limits."""
        return self._total("lost_usd + reserved_usd")

    def report(self) -> list[dict[str, Any]]:
        """Return rows of `role`, `state`, `kind`, `requests`, `sends`, `prompt_tokens`, `completion_tokens`, `usd`."""
        cursor = self._db.execute(
            "select role, state, kind, count(*) as requests, sum(sends) as sends, sum(prompt_tokens) as prompt_tokens,"
            " sum(completion_tokens) as completion_tokens, total(usd) as usd"
            " from requests group by role, state, kind order by role, state, kind"
        )
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]
