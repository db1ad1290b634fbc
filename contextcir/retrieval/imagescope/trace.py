"""The trace of ImageScope: a readable record of each query, one JSON object in a line.

The line of a query is written when it has passed all stages. If a query has several lines, the last one counts. Keys:

- `key` (see [`query_key`]), `query` and `reference` (ids), `text`;
- `descriptions` of the target, if the first retriever is a `ReasonedRetriever`;
- `retrieved` with `scores`, `verified`, `evaluated`: ids of the best images after each stage, best first;
- `propositions`, and `answers`: image id -> the verifier's answers, null if there was no usable answer;
- `verdicts`: image id -> the evaluator's verdict and reason, null if there was no usable answer;
- `candidates`: the three orders for the query's own candidates;
- `depths`: how many images of an order were verified, and how many evaluated;
- `prompts`: version and digest of each prompt;
- `calls`: role -> number of `requests`, `prompt_tokens`, `completion_tokens`, `usd`; and the sums of these over roles.

A trace is only for reading. Answers are stored in the ledger (`contextcir/chat/ledger.py`), which answers a repeated
request at no cost: so a run continues where it stopped, and other settings ask only new questions.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from contextcir.chat.exchange import Ask, ChatRequest
from contextcir.chat.tally import SUMS
from contextcir.retrieval.base import Query

VERSION = 2
HEADER = json.dumps({"trace": "imagescope", "version": VERSION}).encode() + b"\n"


class Trace:
    """
    The file of a trace, for writing.

    Args:
        path (`str` or `os.PathLike`): The file, created if it does not exist. An unfinished last line is removed.

    Raises:
        `ValueError`: The file is not a trace, has another version, or is damaged.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.is_file() or not self.path.stat().st_size:
            self.path.write_bytes(HEADER)
        self.compact()

    def write(self, record: dict[str, Any]) -> None:
        """Append the line of a query."""
        with open(self.path, "ab") as file:
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def compact(self) -> None:
        """Keep only the last line of each query, in the order of their first lines."""
        temporary = self.path.with_suffix(".tmp")
        with open(self.path, "rb") as old:
            places = _last_lines(old)
            with open(temporary, "wb") as new:
                new.write(HEADER)
                for place in places:
                    old.seek(place)
                    new.write(old.readline())
        os.replace(temporary, self.path)


def read_trace(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """Yield the last line of each query in the file. Raises a `ValueError` as [`Trace`] does."""
    with open(path, "rb") as file:
        for place in _last_lines(file):
            file.seek(place)
            yield json.loads(file.readline())


def _last_lines(file: BinaryIO) -> list[int]:
    """Offsets of the last line of each query, without an unfinished line at the end. (Offsets, as the lines of a large
    benchmark take much memory.)"""
    if (begin := file.readline()) != HEADER:
        raise ValueError(
            f"{file.name} begins with {begin[:60]!r}, expected {HEADER!r}: it is another file, or a trace of another"
            " version. Move it away and search again: what the ledger beside it holds costs nothing."
        )
    last: dict[str, int] = {}
    place = file.tell()
    for line in iter(file.readline, b""):
        if line.endswith(b"\n"):
            try:
                last[json.loads(line)["key"]] = place
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{file.name}, byte {place}: expected a JSON object with a key ({error!r}). Remove the line."
                ) from error
        place = file.tell()
    return list(last.values())


def query_key(query: Query) -> str:
    """Identify a query among those of all benchmarks: 16 hex digits of its id, texts and reference."""
    facts = [query.id, query.modification_text, query.paraphrases, query.turns, query.reference_id]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


class QueryRecord:
    """The record of one query during a search: its `facts`, with the keys of the trace, and the calls through `ask`,
    which passes requests to a function such as [`~contextcir.retrieval.imagescope.panel.Panel.ask`]."""

    def __init__(self, query: Query, ask: Ask):
        self.facts: dict[str, Any] = {"key": query_key(query), "query": query.id, "text": query.modification_text}
        self.facts["reference"] = query.reference_id
        self._ask = ask
        self._calls: dict[str, Counter] = defaultdict(Counter)

    async def ask(self, request: ChatRequest) -> Any:
        """Ask the role of a request. Return an instance of its schema, or `None` if there is no usable answer."""
        outcome = await self._ask(request)
        self._calls[request.role].update({"requests": 1, **{name: getattr(outcome, name) for name in SUMS}})
        return outcome.value if outcome.kind == "answered" else None

    def line(self) -> dict[str, Any]:
        """`dict[str, Any]`: The line of the trace."""
        sums = {name: sum(count[name] for count in self._calls.values()) for name in SUMS}
        return {**self.facts, "calls": {role: dict(count) for role, count in self._calls.items()}, **sums}
