"""The Batch API of a chat server: upload a file, submit a batch with a label, find it again, poll it, download files.

What the server sends is read as untrusted JSON. An error ends the run, since it concerns a whole batch.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from contextcir.chat.errors import kind_of, read_error
from contextcir.chat.exchange import ChatStop
from contextcir.chat.plain_text import printable
from contextcir.chat.server import ChatServer
from contextcir.chat.stops import stop_for

ENDPOINT = "/v1/chat/completions"
LABEL = "contextcir"  # the name of a batch's label in its metadata
FINAL = ("completed", "failed", "expired", "cancelled")


class TooLarge(Exception):  # noqa: N818  (the batch is made smaller)
    """A server takes no batch of this size, or no further one until others have ended."""


class BatchState(NamedTuple):
    """The state of a batch: `status` in the server's terms, `files` of answers and errors, and the `code` and `error`
    of a batch that failed as a whole."""

    status: str
    files: tuple[str, ...]
    code: str
    error: str


async def upload(server: ChatServer, path: Path) -> str:
    """Upload the file of a batch. Returns its id. Raises a [`TooLarge`] if the server takes no file of its size."""
    with translated_errors(server), open(path, "rb") as content:
        file = await server.client.files.create(file=content, purpose="batch")
        return _name(server, getattr(file, "id", None), "file")


async def submit_batch(server: ChatServer, file: str, key: str) -> str:
    """
    Submit an uploaded file as a batch with a label. Returns the server's id of the batch.

    Raises:
        [`~contextcir.chat.exchange.ChatStop`]: If its reason is "unreachable", the batch may exist all the same.
        [`TooLarge`]: The server takes no further batch of this size.
    """
    with translated_errors(server):
        # Without retries: if only the response was lost, the batch exists, and a second one would be charged too.
        batch = await server.client.with_options(max_retries=0).batches.create(
            input_file_id=file, endpoint=ENDPOINT, completion_window="24h", metadata={LABEL: key}
        )
        return _name(server, getattr(batch, "id", None), "batch")


async def find_batch(server: ChatServer, key: str) -> str | None:
    """Return the server's id of the batch with this label, if there is one."""
    with translated_errors(server):
        async for batch in server.client.batches.list(limit=100):
            metadata = getattr(batch, "metadata", None)
            if isinstance(metadata, Mapping) and metadata.get(LABEL) == key:
                return _name(server, getattr(batch, "id", None), "batch")
    return None


async def batch_state(server: ChatServer, name: str) -> BatchState:
    """Poll the state of a batch."""
    with translated_errors(server):
        batch = (await server.client.batches.retrieve(name)).model_dump(warnings=False)
    files = tuple(file for file in (batch.get("output_file_id"), batch.get("error_file_id")) if _is_name(file))
    errors = batch.get("errors")
    listed = errors.get("data") if isinstance(errors, Mapping) else errors
    problem = listed[0] if isinstance(listed, list) and listed else listed
    error = read_error(400, problem) if problem else None
    code, words = (min(error.codes, default=""), server.say(error.message)) if error else ("", "")
    status = batch.get("status")
    return BatchState(status.lower() if isinstance(status, str) else "unknown", files, code, words)


async def download(server: ChatServer, file: str, path: Path) -> None:
    """Download a file without holding it in memory."""
    with translated_errors(server):
        async with server.client.files.with_streaming_response.content(file) as response:
            await response.stream_to_file(path)


@contextmanager
def translated_errors(server: ChatServer) -> Iterator[None]:
    """Raise errors of the `openai` client, and those of reading what it returns, as a
    [`~contextcir.chat.exchange.ChatStop`]."""
    client = server.client
    from contextcir.chat.connection import ConnectionLost, Rejected, plain_errors  # imports openai

    try:
        with plain_errors(client):
            yield
    except Rejected as failed:
        error = read_error(*failed.response)
        text = server.say(f"{server.address} returned {error.status}: {error.message or 'no message'}")
        kind = kind_of(error)
        if kind in ("queue", "large"):
            raise TooLarge(text) from None
        if error.status == 404:  # a batch or a file, since these calls name no model
            raise ChatStop("batch", f"There is no such batch or file ({text}). Check the key.") from None
        raise stop_for(kind, text, server.model, 0) or ChatStop("unreachable", text) from None
    except ConnectionLost as failed:
        raise ChatStop("unreachable", server.say(f"{server.address}: {failed}")) from None
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as failed:
        text = server.say(f"{type(failed).__name__}: {failed}")
        raise ChatStop("unreachable", f"{server.address} sent what is no batch and no file ({text}).") from None


def _name(server: ChatServer, name: Any, kind: str) -> str:
    if not _is_name(name):
        raise ValueError(f"the id of a {kind} is {printable(repr(name))}")
    return name


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(name)
