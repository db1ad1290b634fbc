"""A chat server's batches: a file of requests in, a state to ask after, files of answers out.

Requests in a batch cost less and take up to a day. A batch is labelled with a key of the caller's before it exists, so
that one whose maker died before it heard the server's name for it is found again and not paid twice.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

ENDPOINT = "/v1/chat/completions"
FINAL = ("completed", "failed", "expired", "cancelled")
_LABEL = "contextcir"


class BatchState(NamedTuple):
    """Where a batch is: `status` as the server says, `files` with answers and errors, `code` and `error` if it failed
    as a whole."""

    status: str
    files: tuple[str, ...]
    code: str
    error: str


def batch_line(request_id: str, body: dict[str, Any]) -> bytes:
    """A request as a line of a batch's file."""
    line = {"custom_id": request_id, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line).encode() + b"\n"


async def upload_requests(server, path: Path) -> str:
    """Upload a file of requests; returns what the server calls it."""
    with server.speaking(), open(path, "rb") as file:
        return (await server.client.files.create(file=file, purpose="batch")).id


async def submit_batch(server, file: str, key: str) -> str:
    """Have a file of requests worked on; returns what the server calls the batch. Where this fails as "unreachable",
    the batch may exist all the same, and has its label."""
    with server.speaking():
        # Not repeated by the client: a batch whose answer was lost may exist, and a second would be paid for too.
        batch = await server.client.with_options(max_retries=0).batches.create(
            input_file_id=file, endpoint=ENDPOINT, completion_window="24h", metadata={_LABEL: key}
        )
    return batch.id


async def find_batch(server, key: str) -> str | None:
    """What the server calls the batch with this label, if it has one."""
    with server.speaking():
        async for batch in server.client.batches.list(limit=100):
            if (batch.metadata or {}).get(_LABEL) == key:
                return batch.id
    return None


async def batch_state(server, name: str) -> BatchState:
    """Ask after a batch."""
    with server.speaking():
        batch = await server.client.batches.retrieve(name)
    files = tuple(file for file in (batch.output_file_id, batch.error_file_id) if file)
    problem = next(iter(batch.errors.data or []), None) if batch.errors else None
    code, error = (problem.code or "", problem.message or "") if problem else ("", "")
    return BatchState(batch.status, files, code, error)


async def download_lines(server, file: str, path: Path) -> None:
    """Write a file of answers to `path`, without holding it in memory."""
    with server.speaking():
        async with server.client.files.with_streaming_response.content(file) as response:
            await response.stream_to_file(path)
