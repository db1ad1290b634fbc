"""One run: all that it works with, and its pairs asked about until they are done or a stop ends it.

Dispatchers send the requests: one for the server, and another where a model in this process answers a stage.
"""

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from contextcir.captions.inspection import Inspector
from contextcir.captions.pipeline import NOT_REACHED, Captioner, PairResult, ResultLog, caption_all
from contextcir.chat.prompts import Prompt, prompts_hash
from contextcir.chat.server import ChatRequest, ChatServer, ChatStop, Outcome
from contextcir.data.pairs import Pair


@dataclass
class Run:
    """
    Everything that one call works with.

    Args:
        pairs (`Sequence[Pair]`): What is captioned.
        recipe (`str`): `good4cir` or `instructcir`.
        prompts (`dict[str, Prompt]`): Of the recipe.
        max_changes (`int`): Most captions of a pair that are joined in one text (good4cir).
        parser (`str`, *optional*): benepar name or path for noun phrases; by default the shipped parser.
        server ([`~contextcir.chat.server.ChatServer`]): Who answers.
        inspector ([`Inspector`]): Looks at the images beforehand.
        folder (`Path`): Where results go.
        facts (`dict`): For the report.
        reformulator ([`~contextcir.captions.reformulator.Reformulator`], *optional*): Answers one stage in this
            process.
    """

    pairs: Sequence[Pair]
    recipe: str
    prompts: dict[str, Prompt]
    max_changes: int
    parser: str | None
    server: ChatServer
    inspector: Inspector
    folder: Path
    facts: dict[str, Any]
    reformulator: Any = None

    @property
    def answering(self) -> dict[str, Any]:
        """Who answers."""
        return self.server.settings | (self.reformulator.settings if self.reformulator else {})

    def settings(self) -> dict[str, Any]:
        """What all answers in a folder have in common."""
        return self.answering | {"recipe": self.recipe, "prompts": prompts_hash(self.prompts)}


async def caption_pairs(
    run: Run, log: ResultLog, dispatcher: Any, reformulation: Any = None, *, in_flight: int
) -> ChatStop | None:
    """
    All pairs through all stages.

    Args:
        run ([`Run`]): Its server is closed at the end.
        log ([`ResultLog`]): Gets the results.
        dispatcher ([`~contextcir.chat.Dispatcher`] or [`~contextcir.chat.BatchDispatcher`]): Of the server.
        reformulation ([`~contextcir.chat.Dispatcher`], *optional*): Of the reformulator, if there is one.
        in_flight (`int`): Pairs that are in the stages at a time.

    Returns:
        `ChatStop` or `None`: What ended the run early, if anything did.
    """

    async def ask(request: ChatRequest) -> Outcome:
        own = reformulation and request.role == "reformulation"
        return await (reformulation if own else dispatcher).ask(request)

    with closing(Bar(len(run.pairs), dispatcher.progress)) as bar:
        async with run.server, dispatcher, reformulation or nullcontext():
            captioner = Captioner(run.recipe, ask, run.prompts, run.inspector)
            await caption_all(run.pairs, captioner.caption, log, in_flight=in_flight, on_result=bar)
    return captioner.stopped


class Bar:
    """
    A bar on the screen, told of each result.

    Args:
        total (`int`): Number of pairs.
        progress: `prompt_tokens`, `completion_tokens` and `usd` of the run so far, such as a dispatcher's `progress`.
    """

    def __init__(self, total: int, progress: Any):
        self._bar = tqdm(total=total, unit="pair", smoothing=0.05)
        self._progress = progress
        self.failed = self.refused = 0

    def __call__(self, result: PairResult) -> None:
        """Another pair is done, or left open by a stop."""
        if result.reason == NOT_REACHED:
            return
        self.failed += bool(result.reason)
        self.refused += result.reason.endswith((": refused", ": filtered"))
        tokens = self._progress.prompt_tokens + self._progress.completion_tokens
        numbers = {
            "failed": self.failed,
            "refused": self.refused,
            "tokens": f"{tokens:,}",
            "usd": f"{self._progress.usd:.4f}",
        }
        self._bar.set_postfix(numbers, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._bar.close()
