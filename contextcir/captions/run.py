"""One run: all that it works with, and its pairs asked about until they are done or a stop ends it.

Who sends the requests is handed in: a dispatcher of `contextcir.dispatch` for the server, and another where a model in
this process answers one of the stages.
"""

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextcir.captions.inspection import Inspector
from contextcir.captions.pipeline import Captioner, ResultLog, caption_all
from contextcir.captions.progress import Bar
from contextcir.captions.prompts import Prompt, prompts_hash
from contextcir.chat import ChatRequest, ChatServer, ChatStop, Outcome
from contextcir.pairs import Pair


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
        server ([`~contextcir.chat.ChatServer`]): Who answers.
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
        dispatcher ([`~contextcir.dispatch.Dispatcher`] or [`~contextcir.dispatch.BatchDispatcher`]): Of the server.
        reformulation ([`~contextcir.dispatch.Dispatcher`], *optional*): Of the reformulator, if there is one.
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
