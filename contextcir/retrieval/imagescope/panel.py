"""The four roles at work: one event loop, a bounded number of questions in the air, and the record of all answers.

Captions are asked for by all processes, each its share. All else is asked by the main one, which tells the others. An
error on one process ends all, since they would wait for it.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from contextcir.chat.images import image_digest
from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.imagescope.cache import CaptionCache
from contextcir.retrieval.imagescope.roles import Questions, Roles, load_prompts
from contextcir.retrieval.imagescope.trace import Line, Tally, Trace
from contextcir.runtime.distributed import process_state

T = TypeVar("T")


class Panel:
    """
    Who answers ImageScope's questions, and what was answered. `close` it at the end.

    Args:
        roles ([`~contextcir.retrieval.imagescope.roles.Roles`]): The four.
        folder (`str` or `os.PathLike`): Where the trace is, `trace.jsonl`. A search goes on from what is in there.
        cache (`str` or `os.PathLike`): Where captions and embeddings are. It may serve any number of runs.
        benchmark (`str`, *optional*): Whose prompts are taken, where it has some of its own.
        waiting (`int`, *optional*, defaults to 640): How many questions may wait for an answer at a time. Their images
            are what takes memory. How many are sent at a time is up to those who send them; to a Batch API, that is
            all of these.
        loop (`asyncio.AbstractEventLoop`, *optional*): Where questions are asked, if those who send them need a
            certain one, who then close it. It must not be running: in a notebook, `await
            asyncio.to_thread(retriever.search, ...)`.

    Attributes:
        tally ([`~contextcir.retrieval.imagescope.trace.Tally`]): What was asked in this process.

    Raises:
        `ValueError`: The folder has a trace of another version.
    """

    def __init__(
        self,
        roles: Roles,
        folder: str | os.PathLike,
        *,
        cache: str | os.PathLike,
        benchmark: str = "",
        waiting: int = 640,
        loop: asyncio.AbstractEventLoop | None = None,
    ):
        if waiting < 1:
            raise ValueError(f"Got waiting={waiting}, expected at least 1.")
        self.roles, self.cache, self.waiting = roles, Path(cache), waiting
        self.questions = Questions(load_prompts(benchmark))
        self.state = process_state()
        self.trace = Trace(Path(folder) / "trace.jsonl") if self.state.is_main_process else None
        self.tally = Tally()
        self._owns_loop, self._loop = loop is None, loop or asyncio.new_event_loop()
        self._content_ids: dict[tuple[Gallery, str], str] = {}

    def close(self) -> None:
        """Close the event loop, unless it was given. Nothing can be asked afterwards."""
        if self._owns_loop:
            self._loop.close()

    def line(self, query: Query) -> Line:
        """The line of a query in the trace."""
        return Line(self.trace, self.tally, query)

    def content_id(self, gallery: Gallery, id_: str) -> str:
        """What an image of a gallery is known by in caches and traces."""
        if (gallery, id_) not in self._content_ids:
            self._content_ids[gallery, id_] = image_digest(gallery.images[gallery.positions[id_]]).hex()
        return self._content_ids[gallery, id_]

    def reference(self, query: Query, gallery: Gallery) -> Any:
        """The reference image of a query as it lies there, in the query or in the gallery."""
        if query.reference_image is not None:
            return query.reference_image
        return gallery.images[gallery.positions[query.reference_id]]

    def reference_content_id(self, query: Query, gallery: Gallery) -> str:
        """What the reference image of a query is known by."""
        if query.reference_image is not None:
            return image_digest(query.reference_image).hex()
        return self.content_id(gallery, query.reference_id)

    def reference_captions(self, queries: Sequence[Query], gallery: Gallery) -> dict[str, str]:
        """
        Have the reference images of queries described.

        Args:
            queries (`Sequence[Query]`): The queries.
            gallery (`Gallery`): Where reference images come from that a query does not hold itself.

        Returns:
            `dict[str, str]`: Query id -> caption; without those that have no reference, or whose caption failed.

        Raises:
            `ChatStop`: Going on is pointless.
        """
        composed = [query for query in queries if query.has_reference]
        ids = {query.id: self.reference_content_id(query, gallery) for query in composed}
        captions = self.captions({ids[query.id]: partial(self.reference, query, gallery) for query in composed})
        return {query: captions[content] for query, content in ids.items() if content in captions}

    def captions(self, images: Mapping[str, Callable[[], Any]]) -> dict[str, str]:
        """
        Have images described that were not yet.

        Args:
            images (`Mapping[str, Callable]`): Content id -> what gives the image, so that all need not be in memory.

        Returns:
            `dict[str, str]`: Content id -> caption, the same on all processes; without those that failed.

        Raises:
            `ChatStop`: Going on is pointless.
        """
        captioner, state = self.roles.captioner, self.state
        cache = CaptionCache(self.cache, captioner.model, self.questions.caption(None).prompt)

        async def describe(content: str) -> None:
            outcome = await self.tally.ask(captioner, self.questions.caption(images[content]()))
            if outcome.kind == "answered":
                facts = {"tokens": outcome.prompt_tokens + outcome.completion_tokens, "usd": outcome.usd}
                cache.add(content, outcome.value.caption, state.process_index, **facts)

        known = cache.read()
        state.wait_for_everyone()  # nobody is to see what another one adds already
        missing = [content for content in images if content not in known]
        self.tally.roles["captioner"]["reused"] += len(images) - len(missing)
        mine = missing[state.process_index :: state.num_processes]
        self.on_all(lambda: self.in_flight(map(describe, mine), len(mine), "Captions", self.waiting))
        if missing:
            known = cache.read()
        return {content: known[content] for content in images if content in known}

    def on_all(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await something on each process, and end on all where it fails on one."""
        result, error = self._attempt(work)
        self._end_together(error, gather_object([str(error) if error else None]))
        return result

    def on_main(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await something on the main process, and give what it gives to all."""
        result, error = self._attempt(work) if self.state.is_main_process else (None, None)
        result, message = broadcast_object_list([result, str(error) if error else None])
        self._end_together(error, [message])
        return result

    def _end_together(self, error: Exception | None, messages: Sequence[str | None]) -> None:
        if error:
            raise error
        if any(messages):
            raise RuntimeError(f"Another process has stopped: {next(filter(None, messages))}")

    def _attempt(self, work: Callable[[], Awaitable[T]]) -> tuple[T | None, Exception | None]:
        task = self._loop.create_task(work())
        try:
            with _on_interrupt(lambda *_: self._loop.call_soon_threadsafe(task.cancel)):
                return self._loop.run_until_complete(task), None
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        except Exception as error:
            return None, error

    async def in_flight(self, jobs: Iterable[Awaitable[T]], total: int, what: str, limit: int) -> list[T]:
        """
        Await jobs, a bounded number at a time, begun in their order. The first error ends all.

        Args:
            jobs (`Iterable[Awaitable]`): The jobs, made when their turn comes.
            total (`int`): How many there are.
            what (`str`): What the progress bar says.
            limit (`int`): How many at a time.

        Returns:
            `list`: What they gave, in their order.
        """
        results: list = [None] * total
        numbered = enumerate(jobs)
        with tqdm(total=total, desc=what, disable=not (total and self.state.is_main_process), leave=False) as bar:

            async def work():
                for number, job in numbered:
                    results[number] = await job
                    bar.update()

            await together(work() for _ in range(min(limit, total)))
        return results


async def together(jobs: Iterable[Awaitable[T]]) -> list[T]:
    """What all jobs give, in their order. Where one fails, the others are cancelled, and have ended when this ends."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _on_interrupt(handle: Callable) -> Iterator[None]:
    """A context in which Ctrl-C is handled, and not raised in whatever task happens to run. (Signals reach the main
    thread only.)"""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
