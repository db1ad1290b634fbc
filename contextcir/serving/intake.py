"""Take in forms with uploads: everything is counted while it arrives, held in memory, and gone after the answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from contextcir.serving.errors import RefusedError, Slots
from contextcir.serving.settings import Settings

FIELDS_BYTES = 64 << 10  # that a form may have beside its upload
MAX_FIELDS = 20
MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Form:
    """
    A form that has arrived.

    Args:
        fields (`dict[str, str]`): Name -> text.
        upload (`bytes`, *optional*): The content of the file `upload`.
    """

    fields: dict[str, str]
    upload: bytes | None


class Intake:
    """
    Read forms within the limits of a server.

    Args:
        settings ([`~contextcir.serving.settings.Settings`]): The limits.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.slots = Slots(settings.uploads, "The server is busy with other uploads")

    @asynccontextmanager
    async def reading(self, request: Request) -> AsyncIterator[Form]:
        """
        Read a form, and hold its place among the uploads during the block, in which the upload is decoded.

        Raises:
            `RefusedError`: It is no form (415, 400), too large (413), takes too long (408), or there are too many
                uploads at a time (429).
            `ClientDisconnect`: Nobody waits for the answer any more.
        """
        most = self.settings.upload_bytes + FIELDS_BYTES
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > most:
            raise self._too_large()
        # A form without a file is small, and needs no place among the uploads: slow uploads do not hold it up.
        small = declared.isdecimal() and int(declared) <= FIELDS_BYTES
        with nullcontext() if small else self.slots.take():
            form = await self._read(request, most)
            with self.slots.take() if small and form.upload else nullcontext():
                yield form

    async def _read(self, request: Request, most: int) -> Form:
        try:
            return await asyncio.wait_for(self._parse(request, most), self.settings.upload_seconds)
        except asyncio.TimeoutError:
            seconds = self.settings.upload_seconds
            raise RefusedError(408, f"The request took more than {seconds:g} s to arrive. Try again.") from None
        except MultiPartException as error:
            raise RefusedError(400, f"The form cannot be read: {error.message.rstrip('.')}.") from None

    async def _parse(self, request: Request, most: int) -> Form:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        stream = _counted(request, most, self._too_large())
        parser: Any
        if kind == MULTIPART:
            parser = MultiPartParser(
                request.headers, stream, max_files=1, max_fields=MAX_FIELDS, max_part_size=FIELDS_BYTES
            )
            parser.spool_max_size = most + 1  # in memory: an upload never touches the disk
        elif kind == URLENCODED:
            parser = FormParser(request.headers, stream, max_fields=MAX_FIELDS, max_part_size=FIELDS_BYTES)
        else:
            raise RefusedError(415, f"Got the content type {kind[:60] or 'of nothing'!r}, expected {MULTIPART}.")
        parsed = await parser.parse()
        try:
            return await self._form(parsed)
        finally:
            await parsed.close()

    async def _form(self, parsed: Any) -> Form:
        fields: dict[str, str] = {}
        upload = None
        for name, value in parsed.multi_items():
            if isinstance(value, UploadFile):
                if name != "upload":
                    raise RefusedError(422, f"Got a file as {name[:60]!r}, expected it as 'upload'.")
                content = await value.read()
                if len(content) > self.settings.upload_bytes:
                    raise self._too_large()
                if not content and value.filename:
                    raise RefusedError(422, "The upload is empty (0 bytes). Choose another file.")
                upload = content or None
            elif name in fields:
                raise RefusedError(422, f"The field {name[:60]!r} is given twice.")
            else:
                fields[name] = value
        return Form(fields, upload)

    def _too_large(self) -> RefusedError:
        most = self.settings.upload_bytes / 1e6
        return RefusedError(413, f"The upload is too large: at most {most:g} MB are taken. Scale the picture down.")


async def _counted(request: Request, most: int, refusal: RefusedError) -> AsyncGenerator[bytes, None]:
    """The body of a request, a piece at a time, until it is larger than it may be. What its header declares does not
    count."""
    total = 0
    async for piece in request.stream():
        total += len(piece)
        if total > most:
            raise refusal
        yield piece


async def until_gone(request: Request, awaitable: Any) -> Any:
    """Wait for something as long as the client waits for the answer. The body of the request has been read. Raises
    `ClientDisconnect` and cancels the work if the client has gone."""
    work = asyncio.ensure_future(awaitable)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect()
        return work.result()
    finally:
        for one in (work, gone):
            one.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
