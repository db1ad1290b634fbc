"""Take all pairs through all stages: each pair ends as kept, or as failed with one reason.

Results are written to a file as they arrive, so memory does not grow with the pairs. This file is not used to resume:
a continued run makes all requests again, and `ask` answers from its ledger.
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
from contextcir.chat.dispatch import cancel_all
from contextcir.chat.exchange import Ask, ChatStop
from contextcir.chat.prompts import Prompt
from contextcir.data.images import ImageError
from contextcir.data.pairs import Pair

NOT_REACHED = "not_reached"  # the reason of pairs that were left when a run ended early


@dataclass
class PairResult:
    """
    The result of one pair, as in a line of `pairs.jsonl`.

    Args:
        id (`str`), reference_id (`str`), target_id (`str`), original_caption (`str`, *optional*): Those of the pair.
        reason (`str`): Why it failed; empty if captions are kept. The reason of a stage is `stage: kind`.
        detail (`str`): The error message.
        stages (`list[dict]`): `stage`, `outcome`, `model` and `request_id` of every answer.
        reference, target: The model's description of each image: objects, or a caption.
        captions (`list[dict]`): All captions, with `operation`, `source_object`, `target_object`, and as `dropped` the
            gate that failed or `None`.
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
        """`list[Caption]`: The captions that passed all gates; none if the pair failed."""
        entries = [] if self.reason else [dict(entry) for entry in self.captions]
        return [Caption(**entry) for entry in entries if entry.pop("dropped") is None]


class ResultLog:
    """
    Results on disk, written as they arrive and read in the order of the pairs.

    Args:
        path (`str` or `os.PathLike`): An existing file is overwritten.
        count (`int`): Number of pairs.
    """

    def __init__(self, path: str | os.PathLike, count: int):
        self._file = open(path, "w+b")  # closed by `close`
        self._starts = [-1] * count

    def write(self, place: int, result: PairResult) -> None:
        """Write the result of the pair at index `place`."""
        self._starts[place] = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(asdict(result), ensure_ascii=False).encode() + b"\n")

    def _lines(self) -> Iterator[bytes]:
        for start in self._starts:
            self._file.seek(start)
            yield self._file.readline()

    def __iter__(self) -> Iterator[PairResult]:
        for line in self._lines():
            yield PairResult(**json.loads(line))

    def save(self, path: str | os.PathLike) -> None:
        """Write the results in the order of the pairs."""
        with open(path, "wb") as file:
            file.writelines(self._lines())

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)


class Captioner:
    """
    Takes pairs through the stages of a recipe.

    Args:
        recipe (`str`): `good4cir` or `instructcir`.
        ask (`Ask`): Answers requests, see `contextcir.chat.exchange`.
        prompts (`Mapping[str, Prompt]`): The prompts of the recipe.
        inspector ([`~contextcir.captions.inspection.Inspector`]): Checks the images beforehand.

    Attributes:
        stopped (`ChatStop`, *optional*): The reason why no further request is made.
    """

    def __init__(self, recipe: str, ask: Ask, prompts: Mapping[str, Prompt], inspector: Inspector):
        self.recipe, self.ask, self.prompts, self.inspector = recipe, ask, prompts, inspector
        self.stopped: ChatStop | None = None
        self._started: set[str] = set()

    async def caption(self, pair: Pair) -> PairResult:
        """Caption one pair. Errors of the pair are in its result."""
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
        if pair.id in self._started:
            result.reason = "repeated_pair"
            return
        self._started.add(pair.id)
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
    Caption all pairs, several at a time, and write their results to the log.

    Args:
        pairs (`Sequence[Pair]`): Read one at a time, in their order.
        caption (`Callable[[Pair], Awaitable[PairResult]]`): Such as [`Captioner.caption`].
        log ([`ResultLog`]): Receives the results.
        in_flight (`int`): The number of pairs at a time.
        on_result (`Callable[[PairResult], None]`): Called with each result.
    """
    waiting = iter(enumerate(pairs))  # one iterator for all workers: each takes the next pair when it is free

    async def work() -> None:
        for place, pair in waiting:
            result = await caption(pair)
            log.write(place, result)
            on_result(result)

    workers = [asyncio.create_task(work()) for _ in range(min(in_flight, len(pairs)))]
    try:
        await asyncio.gather(*workers)
    finally:
        await cancel_all(workers)
