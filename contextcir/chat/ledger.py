"""The ledger of an output folder: requests, outcomes and costs, in one SQLite file with one row per request.

A request is first planned, then sent with an upper bound of its cost reserved, then answered or failed. Each step is
one transaction. So a run that is killed at any moment can be continued; an answered request is never sent again; and
the costs plus the reservations never exceed the limit.

A request counts as sent from when its headers leave, so a kill before that loses nothing. One that was in flight when
a run died may have been charged. The next run plans it again, and counts it against the limit by what such requests
have cost so far, see [`Ledger.killed`]: its upper bound assumes an answer of maximum length, which is rare.

A server that charges more than the bound raises the bounds of all later requests of that role, in later runs too. Left
out: several runs on one folder at the same time, which a lock prevents, and images, which stay in their files.
"""

import json
import logging
import os
import time
from collections import defaultdict
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from pydantic import BaseModel

from contextcir.chat.exchange import Outcome
from contextcir.chat.ledger_file import NAME, VERSION, LedgerError, explained, open_file
from contextcir.chat.ledger_report import charged_above, killed_usd, report_rows
from contextcir.chat.prices import MARGIN, check_limit

logger = logging.getLogger("contextcir.chat")

SETTLED = ("answered", "failed")
TEMPORARY = "failed"  # the only kind of failure that is sent again by the next run
IN_EVERY_ID = {"temperature", "max_tokens", "max_image_side"}  # settings that every id of a request depends on

_COPIED = ("kind", "model", "text", "error", "prompt_tokens", "completion_tokens", "doubtful")  # from an outcome


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
    doubtful: int
    usd: float
    batch: str | None

    def outcome(self, schema: type[BaseModel] | None) -> Outcome:
        """Return the recorded outcome of a settled request, with its answer as an instance of `schema` or a text."""
        value = None
        if self.answer is not None:
            value = schema.model_validate_json(self.answer) if schema else json.loads(self.answer)
        copied = {name: getattr(self, name) for name in (*_COPIED, "usd")}
        copied["doubtful"] = bool(self.doubtful)
        return Outcome(value=value, request_id=self.id, recalled=True, **copied)


@dataclass
class _Reservation:
    """What is reserved for a request of this run: `bound`, raised by `factor`, for each of its `sends`."""

    role: str
    bound: float
    factor: float
    sends: int = 1
    is_sent: bool = False

    @property
    def usd(self) -> float:
        return self.bound * self.factor * self.sends


class Ledger(AbstractContextManager):
    """
    The ledger of an output folder. The folder belongs to this run until the ledger is closed.

    Args:
        folder (`str` or `os.PathLike`): Created if missing.
        settings (`dict[str, Any]`): Settings that all answers in the folder share, such as the model, its parameters
            and a hash of the prompts. Recorded at the first use, compared afterwards once there is an answer. Those
            that every id of a request depends on (temperature, max_tokens) may change at any time.
        max_usd (`float`, *optional*): Limit of the cost of this folder, over all runs. No limit by default.

    Raises:
        [`LedgerError`]: Another run uses the folder, it was started with other settings, or the file is damaged.
        `ValueError`: The limit is negative or not finite.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict[str, Any], max_usd: float | None = None):
        self.path = Path(folder) / NAME
        self.max_usd = float("inf") if max_usd is None else check_limit(max_usd)
        self.in_flight = 0  # requests of this run with a reservation
        self._reserved: dict[str, _Reservation] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path.with_suffix(".lock"), timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise LedgerError(f"Another run is writing to {folder}. Wait for it, or choose another folder.") from None
        try:
            self._db = open_file(self.path)
            try:
                self._check_settings(settings)
                self._factors = defaultdict(lambda: 1.0, charged_above(self._query))
                self._settle_killed()
                self._planned = self._value("select coalesce(max(number), 0) from requests")
                self.committed_usd = self.spent_usd + self.unsure_usd
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            self._lock.release()
            raise

    def _query(self, sql: str, *values: Any) -> list[Any]:
        with explained(self.path):
            return self._db.execute(sql, values).fetchall()

    def _value(self, sql: str, *values: Any) -> Any:
        return self._query(sql, *values)[0][0]

    def _check_settings(self, settings: dict[str, Any]) -> None:
        new = {name: json.dumps(value, sort_keys=True) for name, value in {"ledger": VERSION, **settings}.items()}
        old = dict(self._query("select name, value from settings")) or new  # none in a new or recovered ledger
        changed = {
            name: f"{name}: {old.get(name, 'nothing')} before, {new.get(name, 'nothing')} now"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        }
        answered = self._value("select count(*) from requests where state = 'answered'")
        if answered and changed.keys() - IN_EVERY_ID:
            raise LedgerError(
                f"{self.path.parent} was started with other settings ({'; '.join(changed.values())}). Choose another"
                f" folder, restore the earlier settings, or remove {self.path.name} to start over and pay again."
            )
        if answered and changed:
            logger.warning(
                "%s has %s answers of other settings (%s). They are kept; requests that have changed are sent, and"
                " paid for, again.",
                self.path.parent,
                f"{answered:,}",
                "; ".join(changed.values()),
            )
        for name in old.keys() - new.keys():
            self._query("delete from settings where name = ?", name)
        for name, value in new.items():
            self._query("insert or replace into settings values (?, ?)", name, value)

    def _settle_killed(self) -> None:
        """Plan requests again that were in flight when an earlier run ended, unless they are in a batch. What their
        earlier attempts may have cost (time-outs) counts as lost, the last one as killed."""
        for id_, role, reserved, bound in self._query(
            "select id, role, reserved_usd, bound_usd from requests where state = 'sent' and batch is null"
        ):
            last = min(bound * self._factors[role], reserved)
            self._query(
                "update requests set state = 'planned', reserved_usd = 0, lost_usd = lost_usd + ?, kills = kills + 1,"
                " kill_usd = kill_usd + ? where id = ?",
                *(reserved - last, last, id_),
            )

    def close(self) -> None:
        """Release the folder. Reservations of requests in flight are kept, since these may have been charged."""
        self._db.close()
        self._lock.release()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- a request ---------------------------------------------------------------------------------------------------

    def find(self, request_id: str) -> Entry | None:
        """Return the row of a request."""
        rows = self._query(f"select {', '.join(Entry._fields)} from requests where id = ?", request_id)
        return Entry(*rows[0]) if rows else None

    def plan(self, request_id: str, role: str, attempt: int) -> None:
        """Record a request before it is sent. An existing row is left as it is."""
        if self._query("select 1 from requests where id = ?", request_id):
            return
        self._planned += 1
        self._query(
            "insert into requests (id, role, attempt, state, planned_at, number) values (?, ?, ?, 'planned', ?, ?)",
            *(request_id, role, attempt, time.time(), self._planned),
        )

    def reserve(self, request_id: str, usd: float, batch: str | None = None) -> bool:
        """
        Reserve the cost of a planned request. Call [`Ledger.mark_sent`] when it is sent.

        Args:
            request_id (`str`): The request.
            usd (`float`): An upper bound of its cost. It is raised if the server has charged more than such bounds.
            batch (`str`, *optional*): The key of its batch. If given, the request is marked as sent at once: it is
                recorded before the batch exists.

        Returns:
            `bool`: Whether the limit allows it; if not, nothing is changed.
        """
        role = self._value("select role from requests where id = ?", request_id)
        held = _Reservation(role, usd, self._factors[role])
        if self.committed_usd + held.usd > self.max_usd:
            if self.in_flight:
                return False
            self.committed_usd = self.spent_usd + self.unsure_usd  # by now there may be answers to judge kills by
            if self.committed_usd + held.usd > self.max_usd:
                return False
        self._reserved[request_id] = held
        self.committed_usd += held.usd
        self.in_flight += 1
        if batch:
            self.mark_sent(request_id, batch=batch)
        return True

    def mark_sent(self, request_id: str, sends: int = 1, *, batch: str | None = None) -> None:
        """
        Record that a request with a reservation is being sent.

        Args:
            request_id (`str`): The request.
            sends (`int`, defaults to 1): How many attempts at it may be charged, this one included: each reserves the
                bound. (Attempts after a time-out are not held back by the limit.)
            batch (`str`, *optional*): The key of its batch.
        """
        held, again = self._reserved[request_id], int(not self._reserved[request_id].is_sent)
        before, held.sends, held.is_sent = held.usd, max(sends, 1), True
        self._query(
            "update requests set state = 'sent', kind = '', error = '', reserved_usd = ?, bound_usd = ?, batch = ?,"
            " sends = sends + ?, sent_at = ? where id = ?",
            *(held.usd, held.bound, batch, again, time.time(), request_id),
        )
        self.committed_usd += held.usd - before

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
        held = self._reserved.get(request_id)
        self._settle(
            request_id,
            outcome.usd,
            outcome.lost_usd,
            state="answered" if outcome.kind == "answered" else "failed",
            answer=answer,
            settled_at=time.time(),
            **{name: getattr(outcome, name) for name in _COPIED},
        )
        if held and held.bound and not outcome.doubtful:
            self._compare_with_bound(held, outcome.usd)

    def _settle(self, request_id: str, usd: float, lost_usd: float, **columns: Any) -> None:
        held = self._reserved.pop(request_id, None)
        # One without a reservation was sent in a batch of an earlier run, or cannot be sent
        reserved = held.usd if held else self._value("select reserved_usd from requests where id = ?", request_id)
        assignments = ", ".join(f"{name} = ?" for name in columns)
        self._query(
            f"update requests set {assignments}, usd = usd + ?, lost_usd = lost_usd + ?, reserved_usd = 0"
            " where id = ?",
            *(*columns.values(), usd, lost_usd, request_id),
        )
        self.committed_usd += usd + lost_usd - reserved
        self.in_flight -= 1

    def _compare_with_bound(self, held: _Reservation, usd: float) -> None:
        """Raise the bounds of a role if the server charges more, those of requests in flight as well. So no more is
        spent above the limit than what was in flight at the first such answer."""
        if usd <= held.bound * self._factors[held.role] * (1 + 1e-6):
            return
        factor = self._factors[held.role] = MARGIN * usd / held.bound
        logger.warning(
            "The server charged $%.4f for a request (%s) that should cost $%.4f at most. Each further one reserves"
            " %.1f times its bound. Check the price of the model and what the server counts.",
            *(usd, held.role, held.bound, factor),
        )
        for id_, other in self._reserved.items():
            if other.role == held.role:
                before, other.factor = other.usd, factor
                self.committed_usd += other.usd - before
                if other.is_sent:
                    self._query("update requests set reserved_usd = ? where id = ?", other.usd, id_)

    # --- batches -----------------------------------------------------------------------------------------------------

    def open_batch(self, key: str) -> None:
        """Record a batch before it is submitted, under a key that the server stores as its label."""
        self._query("insert into batches values (?, null, ?)", key, time.time())

    def name_batch(self, key: str, server_id: str) -> None:
        """Record the server's id of a batch."""
        self._query("update batches set server_id = ? where key = ?", server_id, key)

    def batch_name(self, key: str) -> str | None:
        """Return the server's id of a batch; `None` if an earlier run died before it received the id."""
        return self._value("select server_id from batches where key = ?", key)

    # --- reports -----------------------------------------------------------------------------------------------------

    @property
    def spent_usd(self) -> float:
        """`float`: The cost of settled requests, in USD."""
        return self._value("select total(usd) from requests")

    @property
    def unsure_usd(self) -> float:
        """`float`: What requests without an answer may have cost: an upper bound for those in flight and timed out,
        and for those in flight at the end of an earlier run what [`Ledger.killed`] says. Included in what `max_usd`
        limits."""
        return self._value("select total(lost_usd + reserved_usd) from requests") + self.killed()["usd"]

    def killed(self) -> dict[str, float]:
        """Judge what requests may have cost that were in flight when a run ended, see
        [`~contextcir.chat.ledger_report.killed_usd`]."""
        return killed_usd(self._query)

    def report(self) -> list[dict[str, Any]]:
        """Return a row for each role, state and kind, see [`~contextcir.chat.ledger_report.report_rows`]."""
        return report_rows(self._query)
