"""All pairs through all stages: each ends as kept, or as failed with one reason, and nothing is lost on the way.

Results are written to a file as they come, so that memory does not grow with the pairs. They are not the memory of a
run that was cut off: a run that goes on asks everything again, and `ask` answers from its ledger what it has.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from contextcir.captions.gates import MAX_WORDS, gate_captions
from contextcir.captions.inspection import Inspector
from contextcir.captions.stages import RECIPES, Caption, Conversation, StageError
from contextcir.chat.prompts import Prompt
from contextcir.chat.server import Ask, ChatStop
from contextcir.data.images import ImageError
from contextcir.data.pairs import Pair

NOT_REACHED = "not_reached"  # the reason of a pair that the end of a run has left open


@dataclass
class PairResult:
    """
    What became of one pair, as a line of `pairs.jsonl` holds it.

    Args:
        id (`str`): Of the pair.
        reference_id (`str`): Of its reference image.
        target_id (`str`): Of its target image.
        original_caption (`str`, *optional*): What was known before.
        reason (`str`): Why it failed; empty where captions are kept. A reason that a stage gave is `stage: kind`.
        detail (`str`): The same in words.
        stages (`list[dict]`): `stage`, `outcome`, `model` and `request_id` of every answer.
        reference: What the model saw in the reference image.
        target: Likewise.
        captions (`list[dict]`): All that were written, with `operation`, `source_object`, `target_object`, and under
            `dropped` the gate that it failed or `None`.
    """

    id: str
    reference_id: str
    target_id: str
    original_caption: str | None = None
    reason: str = ""
    detail: str = ""
    stages: list[dict[str, str]] = field(default_factory=list)
    reference: Any = None
    target: Any = None
    captions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def kept(self) -> list[Caption]:
        """`list[Caption]`: Those that passed all gates; none where the pair failed."""
        entries = [] if self.reason else [dict(entry) for entry in self.captions]
        return [Caption(**entry) for entry in entries if entry.pop("dropped") is None]


class ResultLog:
    """
    Results on disk, written in the order in which they come and read in the order of the pairs.

    Args:
        path (`str` or `os.PathLike`): An older file is overwritten.
        count (`int`): Number of pairs.
    """

    def __init__(self, path: str | os.PathLike, count: int):
        self._file = open(path, "w+b")  # closed by `close`
        self._starts = [-1] * count

    def write(self, place: int, result: PairResult) -> None:
        """Keep the result of the pair at `place`."""
        self._starts[place] = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(asdict(result), ensure_ascii=False).encode() + b"\n")

    def __iter__(self) -> Iterator[PairResult]:
        for start in self._starts:
            self._file.seek(start)
            yield PairResult(**json.loads(self._file.readline()))

    def save(self, path: str | os.PathLike) -> None:
        """Write them in order of the pairs."""
        with open(path, "w", encoding="utf-8") as file:
            for result in self:
                file.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)


class Captioner:
    """
    Takes pairs through the stages of a recipe.

    Args:
        recipe (`str`): `good4cir` or `instructcir`.
        ask (`Ask`): Answers requests, see `contextcir.chat.server`.
        prompts (`Mapping[str, Prompt]`): Of the recipe.
        inspector ([`Inspector`]): Looks at the images beforehand.

    Attributes:
        stopped (`ChatStop`, *optional*): Why nothing more is asked, once the server or the budget ended the run.
    """

    def __init__(self, recipe: str, ask: Ask, prompts: Mapping[str, Prompt], inspector: Inspector):
        self.recipe, self.ask, self.prompts, self.inspector = recipe, ask, prompts, inspector
        self.stopped: ChatStop | None = None
        self._begun: set[str] = set()

    async def caption(self, pair: Pair) -> PairResult:
        """Caption one pair. Whatever can happen to it is in the result."""
        result = PairResult(pair.id, pair.reference_id, pair.target_id, pair.original_caption)
        conversation = Conversation(self.ask)
        try:
            await self._caption(pair, result, conversation)
        except StageError as error:
            result.reason, result.detail = f"{error.stage}: {error.kind}", error.detail
        except ImageError as error:
            result.reason, result.detail = "unreadable_image", str(error)
        except ChatStop as error:
            self.stopped = self.stopped or error
            result.reason, result.detail = NOT_REACHED, str(error)
        result.stages = [
            {"stage": stage, "outcome": outcome.kind, "model": outcome.model, "request_id": outcome.request_id}
            for stage, outcome in conversation.outcomes
        ]
        return result

    async def _caption(self, pair: Pair, result: PairResult, conversation: Conversation) -> None:
        if pair.id in self._begun:
            result.reason = "repeated_pair"
            return
        self._begun.add(pair.id)
        if self.stopped:
            raise self.stopped
        pair, problem = await self.inspector.inspect(pair)
        if problem:
            result.reason, result.detail = problem
            return
        draft = await RECIPES[self.recipe](pair, conversation, self.prompts)
        result.reference, result.target = draft.reference, draft.target
        verdicts = gate_captions(
            [caption.text for caption in draft.captions],
            max_words=MAX_WORDS[self.recipe],
            prompts=self.prompts.values(),
            names=draft.names,
            original=pair.original_caption,
            seen=[seen for seen in (draft.reference, draft.target) if isinstance(seen, str)],
        )
        captions = zip(draft.captions, verdicts, strict=True)
        result.captions = [asdict(caption) | {"dropped": verdict} for caption, verdict in captions]
        if all(verdicts):
            result.reason = "no_caption_left"


async def caption_all(
    pairs: Sequence[Pair],
    caption: Callable[[Pair], Awaitable[PairResult]],
    log: ResultLog,
    *,
    in_flight: int,
    on_result: Callable[[PairResult], None],
) -> None:
    """
    Caption every pair, a number of them at a time, each with its result in the log.

    Args:
        pairs (`Sequence[Pair]`): Read one at a time, in their order.
        caption (`Callable[[Pair], Awaitable[PairResult]]`): Such as [`Captioner.caption`].
        log ([`ResultLog`]): Gets the results.
        in_flight (`int`): Pairs that are in the stages at a time.
        on_result (`Callable[[PairResult], None]`): Told of each result, such as a progress bar.
    """
    waiting = iter(enumerate(pairs))  # one iterator for all workers: each takes the next pair when it is free

    async def work():
        for place, pair in waiting:
            result = await caption(pair)
            log.write(place, result)
            on_result(result)

    workers = [asyncio.create_task(work()) for _ in range(min(in_flight, len(pairs)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
