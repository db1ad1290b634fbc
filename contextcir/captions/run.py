"""Run caption generation: caption all pairs until they are done or a stop ends the run.

Requests go through a dispatcher of the server, and one of the reformulator if a local model answers that stage.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from contextcir.captions.inspection import Inspector
from contextcir.captions.pipeline import NOT_REACHED, Captioner, PairResult, ResultLog, caption_all
from contextcir.chat.dispatch import BaseDispatcher
from contextcir.chat.exchange import ChatBackend, ChatRequest, ChatStop, Outcome
from contextcir.chat.prompts import Prompt, prompts_hash
from contextcir.chat.server import ChatServer
from contextcir.chat.tally import Tally
from contextcir.data.pairs import Pair


@dataclass
class Run:
    """
    The inputs of one run.

    Args:
        pairs (`Sequence[Pair]`): The pairs to caption.
        recipe (`str`): `good4cir` or `instructcir`.
        prompts (`dict[str, Prompt]`): The prompts of the recipe.
        max_changes (`int`): The most captions of a pair that are joined in one text (good4cir).
        parser (`str`, *optional*): benepar name or path for noun phrases; by default the shipped parser.
        server ([`~contextcir.chat.server.ChatServer`]): Answers the requests.
        inspector ([`~contextcir.captions.inspection.Inspector`]): Checks the images beforehand.
        folder (`Path`): The output folder.
        facts (`dict`): Further entries of the report.
        reformulator ([`~contextcir.captions.reformulator.Reformulator`], *optional*): A local model that answers the
            stage `reformulation`.
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
    reformulator: ChatBackend | None = None

    @property
    def answering(self) -> dict[str, Any]:
        """`dict[str, Any]`: Settings of the models that answer."""
        return self.server.settings | (self.reformulator.settings if self.reformulator else {})

    def settings(self) -> dict[str, Any]:
        """Return the settings that all answers in one output folder share."""
        return self.answering | {"recipe": self.recipe, "prompts": prompts_hash(self.prompts)}


async def caption_pairs(
    run: Run,
    log: ResultLog,
    dispatcher: BaseDispatcher,
    reformulation: BaseDispatcher | None = None,
    *,
    in_flight: int,
    tally: Tally,
) -> ChatStop | None:
    """
    Take all pairs through all stages, with a progress bar.

    Args:
        run ([`Run`]): The inputs. Its server is closed at the end.
        log ([`~contextcir.captions.pipeline.ResultLog`]): Receives the results.
        dispatcher ([`~contextcir.chat.dispatch.BaseDispatcher`]): Sends requests to the server.
        reformulation ([`~contextcir.chat.dispatch.BaseDispatcher`], *optional*): Sends requests to the reformulator.
        in_flight (`int`): The number of pairs at a time.
        tally ([`~contextcir.chat.tally.Tally`]): Counts the outcomes of each stage. If a stage does not answer, the
            run ends early.

    Returns:
        `ChatStop` or `None`: The reason why the run ended early, if it did.
    """

    async def ask(request: ChatRequest) -> Outcome:
        to = reformulation if reformulation and request.role == "reformulation" else dispatcher
        outcome = await to.ask(request)
        try:
            tally.add(request.role, outcome)
        except ChatStop as stop:
            for each in filter(None, (dispatcher, reformulation)):
                each.halt(stop)
            raise
        return outcome

    counts = {"failed": 0, "refused": 0}

    def show(result: PairResult) -> None:
        if result.reason != NOT_REACHED:
            counts["failed"] += bool(result.reason)
            counts["refused"] += result.reason.endswith((": refused", ": filtered"))
            usage = dispatcher.usage
            tokens = f"{usage.prompt_tokens + usage.completion_tokens:,}"
            bar.set_postfix({**counts, "tokens": tokens, "usd": f"{usage.usd:.4f}"}, refresh=False)
            bar.update()

    with tqdm(total=len(run.pairs), unit="pair", smoothing=0.05) as bar:
        async with run.server, dispatcher, reformulation or nullcontext():
            captioner = Captioner(run.recipe, ask, run.prompts, run.inspector)
            await caption_all(run.pairs, captioner.caption, log, in_flight=in_flight, on_result=show)
    return captioner.stopped
