"""What was asked about a query and what was answered, so that nothing is asked again: JSON Lines, one for each query.

A line holds the calls of a query under the content of what was asked (model, prompt, schema, images). A later run
looks there first. So it goes on where an earlier one was stopped, and with other settings asks only what they change:
another verifier leaves the reasoner's answers as they are, another tau those on all candidates that are found again.

A line is appended whenever a stage of its query is done, the last of a query counts, and a finished search leaves one
each. Only where they begin is kept in memory.
"""

import hashlib
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from contextcir.chat.server import ChatRequest, ChatStop
from contextcir.retrieval.base import Query
from contextcir.retrieval.imagescope.roles import Role

VERSION = 1
SUMS = ("prompt_tokens", "completion_tokens", "usd")
GIVE_UP_AFTER = 20  # calls of a role without any that was answered


class Trace:
    """
    The lines of a file by their query.

    Args:
        path (`str` or `os.PathLike`): The file. It is begun where there is none.

    Raises:
        `ValueError`: The file is no trace, of another version, or damaged.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._places: dict[str, int] = {}  # query -> where its last line begins
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.is_file() or not self.path.stat().st_size:
            self.path.write_bytes(_header())
        with open(self.path, "r+b") as file:
            _check_header(file.readline(), self.path)
            while line := self._next(file):
                place, record = line
                self._places[record["key"]] = place

    def _next(self, file) -> tuple[int, dict[str, Any]] | None:
        """The next line and where it begins. A last line that was never finished is cut off."""
        place = file.tell()
        line = file.readline()
        if not line.endswith(b"\n"):
            file.truncate(place)
            return None
        try:
            return place, json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{self.path}, byte {place}: is not JSON ({error}). Remove the line or the file."
            ) from error

    def read(self, query: Query) -> dict[str, Any]:
        """The last line of a query; a new one where there is none."""
        key = query_key(query)
        if key not in self._places:
            return {"key": key, "calls": []}
        with open(self.path, "rb") as file:
            file.seek(self._places[key])
            return json.loads(file.readline())

    def write(self, record: dict[str, Any]) -> None:
        """Appends the line of a query."""
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with open(self.path, "ab") as file:
            self._places[record["key"]] = file.tell()
            file.write(line)

    def compact(self) -> None:
        """Leaves only the last line of each query, in the order in which queries first came."""
        places, temporary = {}, self.path.with_suffix(".tmp")
        with open(self.path, "rb") as old, open(temporary, "wb") as new:
            new.write(_header())
            for key, place in self._places.items():
                old.seek(place)
                places[key] = new.tell()
                new.write(old.readline())
        os.replace(temporary, self.path)
        self._places = places


def read_trace(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """
    The lines of a trace, one for each query.

    Args:
        path (`str` or `os.PathLike`): The file.

    Yields:
        `dict`: As [`~contextcir.retrieval.imagescope.ImageScope`] describes it.

    Raises:
        `ValueError`: The file is no trace, of another version, or damaged.
    """
    with open(path, "rb") as file:
        _check_header(file.readline(), Path(path))
        last = {}
        place = file.tell()
        for line in iter(file.readline, b""):
            if line.endswith(b"\n"):
                last[json.loads(line)["key"]] = place
            place = file.tell()
        for place in last.values():
            file.seek(place)
            yield json.loads(file.readline())


def query_key(query: Query) -> str:
    """What tells a query from others, of other benchmarks too."""
    said = [query.id, query.modification_text, query.paraphrases, query.turns, query.reference_id]
    return _digest(json.dumps(said))


def _header() -> bytes:
    return json.dumps({"trace": "imagescope", "version": VERSION}).encode() + b"\n"


def _check_header(line: bytes, path: Path) -> None:
    try:
        header = json.loads(line)
        version = header["version"] if header["trace"] == "imagescope" else None
    except (ValueError, KeyError, TypeError):
        version = None
    if version is None:
        raise ValueError(f"{path} is no trace of ImageScope (it begins with {line[:40]!r}). Choose another folder.")
    if version != VERSION:
        raise ValueError(
            f"{path} is a trace of version {version}, and this is version {VERSION}. Choose another folder, or move it"
            " away to ask everything again."
        )


class Tally:
    """
    What was asked of each role in this process, and what became of it.

    Attributes:
        roles (`dict[str, Counter]`): For each role `asked`, `reused` (answered by a trace or cache, without asking),
            the kinds of outcome, `prompt_tokens`, `completion_tokens` and `usd`.
    """

    def __init__(self):
        self.roles: dict[str, Counter] = defaultdict(Counter)

    async def ask(self, role: Role, request: ChatRequest):
        """
        Ask, and count.

        Args:
            role ([`~contextcir.retrieval.imagescope.roles.Role`]): Who is asked.
            request (`ChatRequest`): What.

        Returns:
            `Outcome`

        Raises:
            `ChatStop`: Going on is pointless; the message names the role. Also where none of its first calls
                (`GIVE_UP_AFTER`) was answered.
        """
        try:
            outcome = await role.ask(request)
        except ChatStop as stop:
            raise ChatStop(stop.reason, f"The {request.role} ({role.model}): {stop}") from stop
        count = self.roles[request.role]
        count.update({"asked": 1, outcome.kind: 1})
        count.update({name: getattr(outcome, name) for name in SUMS})
        if count["asked"] >= GIVE_UP_AFTER and not count["answered"] and not count["reused"]:
            raise ChatStop(
                "model",
                f"The {request.role} ({role.model}) answered none of its first {count['asked']} questions; the last"
                f" was {outcome.kind}: {outcome.error or outcome.text[:200]}. Is it the right model for this role?",
            )
        return outcome

    def report(self) -> dict[str, dict[str, float]]:
        """`dict[str, dict]`: What was counted, for JSON."""
        return {role: dict(count) for role, count in self.roles.items()}


class Line:
    """
    The line of one query: what it was answered before, and what it is answered now. As a context, it is saved at the
    end, whatever ends it.

    Args:
        trace ([`Trace`]): Where it stands.
        tally ([`Tally`]): Where its calls are counted.
        query (`Query`): Whose it is.
    """

    def __init__(self, trace: Trace, tally: Tally, query: Query):
        self.trace, self.tally = trace, tally
        self.record = trace.read(query)
        self.calls = {call["key"]: call for call in self.record["calls"]}

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_) -> None:
        self.save()

    async def ask(self, role: Role, request: ChatRequest, image_ids: Sequence[str] = ()) -> BaseModel | None:
        """
        Ask, unless it was answered before.

        Args:
            role ([`~contextcir.retrieval.imagescope.roles.Role`]): Who is asked.
            request (`ChatRequest`): What, with a schema.
            image_ids (`Sequence[str]`): The content ids of its images.

        Returns:
            `BaseModel`, *optional*: The answer; `None` where there is no usable one.
        """
        asked = [request.role, role.model, request.prompt, request.schema.__name__, list(image_ids)]
        key = _digest(json.dumps(asked))
        if (answer := self._answered(key, request)) is not None:
            return answer
        start = time.perf_counter()
        outcome = await self.tally.ask(role, request)
        answer = outcome.value if outcome.kind == "answered" else None
        self.calls[key] = {
            "key": key,
            "role": request.role,
            "prompt": _digest(request.prompt),
            **{name: getattr(outcome, name) for name in ("kind", "error", "model", *SUMS)},
            "seconds": round(time.perf_counter() - start, 3),
            "answer": None if answer is None else answer.model_dump(mode="json"),
        }
        return answer

    def _answered(self, key: str, request: ChatRequest) -> BaseModel | None:
        """A usable answer of an earlier run. What failed then is asked again: it may have been the server."""
        call = self.calls.get(key)
        if call is None or call["kind"] != "answered":
            return None
        try:
            answer = request.schema.model_validate(call["answer"])
        except ValidationError:  # edited by hand, or the schema has become stricter
            return None
        self.tally.roles[request.role]["reused"] += 1
        return answer

    def save(self, **facts: Any) -> None:
        """Write the line with new facts, if anything is new. Sums are of all calls, those of other settings too."""
        calls = list(self.calls.values())
        sums = {name: sum(call[name] for call in calls) for name in (*SUMS, "seconds")}
        record = self.record | facts | sums | {"calls": calls}
        if record != self.record:
            self.record = record
            self.trace.write(record)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
