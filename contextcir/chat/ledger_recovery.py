"""Save what is whole in a damaged ledger: its rows go into a new file, and the damaged one is kept aside.

An SQLite file is a tree of pages, and a damaged page hides all that is below it. So rows are not looked up: each cell
of each page is put alone on the table's first page of a copy, and SQLite reads it there. (File format:
sqlite.org/fileformat2.html, sections 1.3 and 1.6.) Rows are numbered in the order of planning, so missing ones can be
counted. What they have cost stays booked as lost, at the mean of the others, since a limit is for all that was spent.
"""

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from contextcir.chat.ledger_file import PAGE, LedgerError, create_file, explained, numbered

LOST = "(lost rows)"  # the role of the row that stands for them
_WAL, _SHM = "-wal", "-shm"  # files that belong to an SQLite file
_STATES = ("planned", "sent", "answered", "failed")
_LEAF, _INTERIOR = 0x0A, 0x02  # kinds of pages with rows; their headers have 8 and 12 bytes


class Recovered(NamedTuple):
    """Rows that were `saved`, those that were `lost`, the file that is `kept`, and what the lost ones count for."""

    saved: int
    lost: int
    kept: Path
    lost_usd: float


def recover(path: Path) -> Recovered:
    """
    Replace a damaged ledger by one with all of its rows that are whole.

    Args:
        path (`Path`): The file `ledger.sqlite`. It is copied aside first, with its write-ahead log.

    Raises:
        [`LedgerError`]: There is no such file, a run uses it, or the new file cannot be written.
    """
    if not path.is_file():
        raise LedgerError(f"There is no ledger {path}.")
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0), tempfile.TemporaryDirectory(dir=path.parent) as name:
            copy, new = Path(name, path.name), Path(name, "new.sqlite")
            _copy(path, copy)
            with explained(new):
                create_file(new)
                _make_readable(copy, new)
                saved, lost, lost_usd = _save_rows(copy, new)
            kept = _free_name(path)
            _copy(path, kept)
            for side in (_WAL, _SHM):  # belong to the damaged file
                Path(f"{path}{side}").unlink(missing_ok=True)
            os.replace(new, path)
    except Timeout:
        raise LedgerError(f"A run is writing to {path.parent}. Wait for it, or end it.") from None
    return Recovered(saved, lost, kept, lost_usd)


def _copy(path: Path, to: Path) -> None:
    for side in (_WAL, ""):
        if Path(f"{path}{side}").exists():
            shutil.copyfile(f"{path}{side}", f"{to}{side}")


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"ledger.damaged-{number}.sqlite")).exists():
        number += 1
    return name


# --- reading ---------------------------------------------------------------------------------------------------------


def _make_readable(copy: Path, new: Path) -> None:
    """Make SQLite open a copy: give it a header if it has none, that of a new ledger, since all are made alike; and
    the length that its header says. Then take in its write-ahead log."""
    content, first = bytearray(copy.read_bytes()), new.read_bytes()[:PAGE]
    if content[:16] != first[:16]:
        content[:PAGE] = first
        content[28:32] = (-(-len(content) // PAGE)).to_bytes(4, "big")  # the number of pages
    size = PAGE * int.from_bytes(content[28:32], "big")
    content += bytes(max(min(size, 100 * len(content)) - len(content), 0))
    copy.write_bytes(content)
    try:
        with closing(sqlite3.connect(copy, isolation_level=None)) as db:
            db.execute("pragma wal_checkpoint(truncate)").fetchall()
    except sqlite3.Error:  # what is in the file itself may still be whole
        pass
    for side in (_WAL, _SHM):
        Path(f"{copy}{side}").unlink(missing_ok=True)
    with open(copy, "r+b") as file:
        file.seek(18)
        file.write(b"\x01\x01")  # has no write-ahead log any more


def _rows(copy: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of requests that can be read, some in several versions."""
    found = _read(copy, "select rootpage from sqlite_master where name = 'requests'")
    start = PAGE * (found[0]["rootpage"] - 1) if found else None
    content = copy.read_bytes()
    if start is None:
        return
    with open(copy, "r+b", buffering=0) as file:
        for place in range(PAGE, len(content), PAGE):
            page = content[place : place + PAGE].ljust(PAGE, b"\0")
            for cell in _cells(page):
                one = bytes([_LEAF, 0, 0, 0, 1]) + cell.to_bytes(2, "big") + b"\0" + cell.to_bytes(2, "big")
                file.seek(start)
                file.write(one + page[len(one) :])
                yield from _read(copy, "select * from requests")


def _cells(page: bytes) -> Iterator[int]:
    """Yield the places of the rows on a page. On an interior page, a row comes after the number of another page."""
    if page[0] in (_LEAF, _INTERIOR):
        header, skipped = (8, 0) if page[0] == _LEAF else (12, 4)
        count = min(int.from_bytes(page[3:5], "big"), PAGE // 4)
        for start in range(header, header + 2 * count, 2):
            cell = int.from_bytes(page[start : start + 2], "big") + skipped
            if header + 2 * count <= cell < PAGE:
                yield cell


def _read(path: Path, query: str) -> list[dict[str, Any]]:
    """Return the rows of a query up to the first that cannot be read."""
    rows: list[dict[str, Any]] = []
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.text_factory = lambda content: content.decode(errors="surrogateescape")  # which is not whole
            cursor = db.execute(query)
            names = [column[0] for column in cursor.description]
            for row in cursor:
                rows.append(dict(zip(names, row, strict=True)))
    except sqlite3.Error:
        pass
    return rows


def _is_whole(row: dict[str, Any]) -> bool:
    """Whether a row can be what this package has written."""
    texts = [row[name] for name in ("id", "role", "kind", "model", "text", "error")]
    numbers = [value for name, value in row.items() if name.endswith(("usd", "_tokens", "sends", "_at"))]
    if row["state"] not in _STATES or not all(map(_is_text, texts)):
        return False
    if not all(value is None or isinstance(value, (int, float)) and 0 <= value < 1e12 for value in numbers):
        return False
    if row["state"] != "answered":
        return row["answer"] is None
    try:
        return _is_text(row["answer"]) and json.loads(row["answer"]) is not None
    except ValueError:
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


# --- writing ---------------------------------------------------------------------------------------------------------


def _save_rows(copy: Path, new: Path) -> tuple[int, int, float]:
    """Return the numbers of rows that were saved and that are missing, and what the latter count for in USD."""
    tables = {table: _read(copy, f"select * from {table}") for table in ("settings", "batches")}
    latest: dict[str, tuple[Any, ...]] = {}  # id -> how far the request had come: a page may hold an older version
    last = 0
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        columns = {row[1] for row in db.execute("pragma table_info(requests)")}
        db.execute("begin")
        for table, rows in tables.items():
            for row in rows:
                _insert(db, table, row)
        for row in _rows(copy):
            if not _is_whole(row):
                continue
            last = max(last, row.get("number") or 0)
            state = row["sends"], row["settled_at"] or 0.0, row["sent_at"] or 0.0
            if state >= latest.get(row["id"], state):
                latest[row["id"]] = state
                _insert(db, "requests", {name: value for name, value in row.items() if name in columns})
        saved = len(latest)
        lost = max(last - saved, 0)
        (total,) = db.execute("select total(usd + lost_usd + reserved_usd + kill_usd) from requests").fetchone()
        lost_usd = lost * total / saved if saved else 0.0
        now = time.time()
        # A batch whose row is gone is found by its label
        db.execute(
            "insert or ignore into batches select distinct batch, null, ? from requests where batch is not null", [now]
        )
        if lost:
            row = {
                "id": f"lost at {now}",
                "role": LOST,
                "attempt": 0,
                "state": "failed",
                "kind": "lost",
                "sends": lost,
            }
            row |= {"error": "in a damaged file", "lost_usd": lost_usd, "planned_at": now, "number": last + 1}
            _insert(db, "requests", row)
        db.execute(numbered("number"))  # without gaps: the lost ones are counted
        db.execute("commit")
        db.execute("pragma wal_checkpoint(truncate)").fetchall()
        db.execute("pragma journal_mode = delete").fetchall()  # no side files: the new file is moved alone
    return saved, lost, lost_usd


def _insert(db: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    db.execute(f"insert or replace into {table} ({', '.join(row)}) values ({marks})", list(row.values()))
