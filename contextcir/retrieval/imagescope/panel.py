"""The four roles at work: ask questions concurrently in one event loop, and agree on the answers between processes.

Captions are requested by all processes, each its share. Everything else is asked by the main process, which sends the
results to the others. An error on one process ends all, as the others would wait for it.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from contextcir.chat.draining import run_until_signal
from contextcir.chat.exchange import ChatRequest, ChatStop, Outcome
from contextcir.chat.tally import Tally
from contextcir.data.content import image_digest
from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.imagescope.cache import CaptionCache
from contextcir.retrieval.imagescope.roles import Questions, Roles, load_prompts
from contextcir.retrieval.imagescope.trace import Trace
from contextcir.runtime.distributed import process_state

T = TypeVar("T")


class Panel:
    """
    The four roles, with the trace and the caches. Call `close` at the end.

    Captions are kept in `cache`. Other answers are kept only if the roles' `ask` keeps them, as a
    [`~contextcir.chat.dispatch.Dispatcher`] does in its ledger. With any other function, such as
    [`~contextcir.retrieval.imagescope.local.pipeline_ask`], a repeated search asks again.

    Args:
        roles ([`~contextcir.retrieval.imagescope.roles.Roles`]): The four roles.
        folder (`str` or `os.PathLike`): Folder of the trace, `trace.jsonl`.
        cache (`str` or `os.PathLike`): Folder of captions and embeddings. Any number of runs may share it.
        benchmark (`str`, *optional*): Name of a benchmark whose own prompts to use, where there are any.
        waiting (`int`, *optional*, defaults to 640): Maximum number of questions that wait for an answer at a time,
            which bounds the memory for their images. `ask` may send fewer at a time; a Batch API gets all of them.
        loop (`asyncio.AbstractEventLoop`, *optional*): Event loop to ask in, if `ask` needs a certain one. It is not
            closed, and must not be running: in a notebook, `await asyncio.to_thread(retriever.search, ...)`.

    Attributes:
        tally ([`~contextcir.chat.tally.Tally`]): The outcomes of each role in this process.
        trace ([`~contextcir.retrieval.imagescope.trace.Trace`], *optional*): The trace, on the main process.

    Raises:
        `ValueError`: `waiting` is not positive, or the folder has a trace of another version.
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

    def close(self) -> None:
        """Close the event loop, unless it was passed to the constructor. Nothing can be asked afterwards."""
        if self._owns_loop:
            self._loop.close()

    async def ask(self, request: ChatRequest) -> Outcome:
        """Ask the role of a request, and count the call. Raises a `ChatStop` that names the role if the run cannot
        continue, or if the role does not answer, see [`~contextcir.chat.tally.Tally.add`]."""
        role = getattr(self.roles, request.role)
        try:
            outcome: Outcome = await role.ask(request)
        except ChatStop as stop:
            raise ChatStop(stop.reason, f"The {request.role} ({role.model}): {stop}") from stop
        self.tally.add(request.role, outcome, f"The {request.role} ({role.model})")
        return outcome

    def reference_captions(self, queries: Sequence[Query], gallery: Gallery) -> dict[str, str]:
        """Caption the reference images of queries. Return query id -> caption, without failed captions. Errors as for
        [`Panel.captions`]."""
        sources = {query.id: partial(gallery.reference_source, query) for query in queries if query.has_reference}
        ids = {query_id: image_digest(source()).hex() for query_id, source in sources.items()}
        captions = self.captions({ids[query_id]: source for query_id, source in sources.items()})
        return {query_id: captions[content] for query_id, content in ids.items() if content in captions}

    def captions(self, images: Mapping[str, Callable[[], Any]]) -> dict[str, str]:
        """
        Caption images that have no caption yet.

        Args:
            images (`Mapping[str, Callable]`): Content id -> a function that returns the image, so that not all images
                are in memory.

        Returns:
            `dict[str, str]`: Content id -> caption, without failed ones. The same on all processes.

        Raises:
            `ChatStop`: The run cannot continue.
            `RuntimeError`: Another process has stopped.
        """
        captioner, state = self.roles.captioner, self.state
        cache = CaptionCache(self.cache, captioner.model, self.questions.caption(None).prompt)

        async def describe(content: str) -> None:
            outcome = await self.ask(self.questions.caption(images[content]()))
            if outcome.kind == "answered":
                facts = {"tokens": outcome.prompt_tokens + outcome.completion_tokens, "usd": outcome.usd}
                cache.add(content, cast(Any, outcome.value).caption, state.process_index, **facts)

        known = cache.read()
        state.wait_for_everyone()  # no process may see what another one adds below
        missing = [content for content in images if content not in known]
        self.tally.counts["captioner"]["reused"] += len(images) - len(missing)
        mine = missing[state.process_index :: state.num_processes]
        _, error = self._attempt(lambda: self.in_flight(map(describe, mine), len(mine), "Captions", self.waiting))
        self._end_together(error, gather_object([str(error) if error else None]))
        if missing:
            known = cache.read()
        return {content: known[content] for content in images if content in known}

    def on_main(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the main process, and return its result on all processes. Its error is raised there, and
        a `RuntimeError` on the others."""
        result, error = self._attempt(work) if self.state.is_main_process else (None, None)
        result, message = broadcast_object_list([result, str(error) if error else None])
        self._end_together(error, [message])
        return cast(T, result)

    def _end_together(self, error: Exception | None, messages: Sequence[str | None]) -> None:
        if error:
            raise error
        if any(messages):
            raise RuntimeError(f"Another process has stopped: {next(filter(None, messages))}")

    def _attempt(self, work: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T | None, Exception | None]:
        try:
            return run_until_signal(self._loop, work()), None
        except Exception as error:
            return None, error

    async def in_flight(self, jobs: Iterable[Awaitable[T]], total: int, what: str, limit: int) -> list[T]:
        """Await `total` jobs, at most `limit` at a time and each created when it starts, with a progress bar titled
        `what`. Return their results in order. The first error ends all."""
        results: list = [None] * total
        numbered = enumerate(jobs)
        with tqdm(total=total, desc=what, disable=not (total and self.state.is_main_process), leave=False) as bar:

            async def work() -> None:
                for number, job in numbered:
                    results[number] = await job
                    bar.update()

            await together(work() for _ in range(min(limit, total)))
        return results


async def together(jobs: Iterable[Awaitable[T]]) -> list[T]:
    """Await jobs concurrently, and return their results in order. If one fails, cancel the others and await them."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
