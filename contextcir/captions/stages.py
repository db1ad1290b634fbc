"""The stages from two images to difference captions, as coroutines over `ask`.

good4cir (ConText-CIR, section 3.3): list the objects of the reference image; list those of the target image given the
first list, so that unchanged objects get the same words; write the differences of both lists. The third stage sees no
image, so that captions mention only objects of the lists.

InstructCIR (section II-A): caption each image separately, then write the change from one caption to the other in at
most 12 words. A change that fails the gates is requested once more. `ask` sends each request once, so each image is
captioned once.

Left out: retries, cost and the form of requests, which belong to `ask`.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from contextcir.captions.gates import MAX_WORDS, echoes_prompt, is_empty, same_words, text_problem
from contextcir.captions.schemas import (
    DescribedObject,
    Differences,
    ImageCaption,
    ReferenceObjects,
    Reformulation,
    TargetObjects,
)
from contextcir.chat.exchange import Ask, ChatRequest, Outcome
from contextcir.chat.prompts import Prompt
from contextcir.data.pairs import Pair


class StageError(Exception):
    """A stage has no usable answer: its name, the kind of failure as counted by reports, and a message."""

    def __init__(self, stage: str, kind: str, detail: str = ""):
        super().__init__(f"{stage}: {kind}. {detail}")
        self.stage, self.kind, self.detail = stage, kind, detail


@dataclass
class Conversation:
    """All requests about one pair."""

    ask: Ask
    _outcomes: list[tuple[str, Outcome] | None] = field(default_factory=list)

    @property
    def outcomes(self) -> list[tuple[str, Outcome]]:
        """`list[tuple[str, Outcome]]`: Stages and outcomes in the order of the requests, not of the answers."""
        return [outcome for outcome in self._outcomes if outcome]

    async def answer(
        self, stage: str, prompt: str, schema: type[BaseModel], images: tuple[Any, ...] = (), attempt: int = 0
    ) -> Any:
        """Make a request and return an instance of `schema`, or raise a [`StageError`]."""
        place = len(self._outcomes)
        self._outcomes.append(None)
        outcome = await self.ask(ChatRequest(role=stage, prompt=prompt, images=images, schema=schema, attempt=attempt))
        self._outcomes[place] = (stage, outcome)
        if outcome.kind != "answered":
            raise StageError(stage, outcome.kind, outcome.error or outcome.text)
        return outcome.value


@dataclass(frozen=True)
class Caption:
    """A modification text, with its operation and the objects before and after it, if the recipe provides them."""

    text: str
    operation: str | None = None
    source_object: str | None = None
    target_object: str | None = None


@dataclass(frozen=True)
class Draft:
    """
    The answers of all stages about a pair.

    Args:
        captions (`list[Caption]`): As the model wrote them.
        reference, target: The model's description of each image: objects as JSON, or a caption.
        names (`list[str]`): Names of the objects of both lists; empty if there are no lists.
    """

    captions: list[Caption]
    reference: Any
    target: Any
    names: list[str]


async def good4cir(pair: Pair, conversation: Conversation, prompts: Mapping[str, Prompt]) -> Draft:
    """
    Write the differences between two images, each one addition, removal, modification or replacement.

    Args:
        pair ([`~contextcir.data.pairs.Pair`]): The images.
        conversation ([`Conversation`]): Records the answers.
        prompts (`Mapping[str, Prompt]`): From [`~contextcir.captions.recipes.load_prompts`].

    Raises:
        [`StageError`]: A stage was not answered, or there is no difference.
    """
    prompt = prompts["reference_objects"].render()
    seen = await conversation.answer("reference_objects", prompt, ReferenceObjects, (pair.reference_image,))
    prompt = prompts["target_objects"].render(reference_objects=seen.objects)
    wanted = await conversation.answer("target_objects", prompt, TargetObjects, (pair.target_image,))
    if _as_set(seen.objects) == _as_set(wanted.objects):
        raise StageError("target_objects", "no_difference", "The lists of both images are the same.")
    prompt = prompts["differences"].render(reference_objects=seen.objects, target_objects=wanted.objects)
    written = await conversation.answer("differences", prompt, Differences)
    if not written.differences:
        raise StageError("differences", "no_difference", "The model wrote no difference.")
    return Draft(
        captions=[
            Caption(" ".join(found.text.split()), found.operation, found.source_object, found.target_object)
            for found in written.differences
        ],
        reference=[found.model_dump() for found in seen.objects],
        target=[found.model_dump() for found in wanted.objects],
        names=[name for found in (*seen.objects, *wanted.objects) for name in _names(found)],
    )


async def instructcir(pair: Pair, conversation: Conversation, prompts: Mapping[str, Prompt]) -> Draft:
    """
    Caption both images and write the change from one to the other. Arguments and errors as for [`good4cir`].
    """
    prompt = prompts["image_caption"].render()
    images = (pair.reference_image, pair.target_image)
    answers = await asyncio.gather(
        *(conversation.answer("image_caption", prompt, ImageCaption, (image,)) for image in images),
        return_exceptions=True,  # waits for the second even if the first fails
    )
    captions = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        captions.append(answer.caption.strip())
    seen, wanted = captions
    if is_empty(seen) or is_empty(wanted):
        raise StageError("image_caption", "empty", "The model wrote an empty caption.")
    if echoes_prompt(f"{seen} {wanted}", [prompts["image_caption"]]):
        raise StageError("image_caption", "echoes_prompt", "The model repeated its prompt.")
    if same_words(seen, wanted):
        raise StageError("image_caption", "no_difference", "Both images have the same caption.")
    prompt = prompts["reformulation"].render(caption_a=seen, caption_b=wanted)
    for attempt in range(2):
        written = await conversation.answer("reformulation", prompt, Reformulation, attempt=attempt)
        change = " ".join(written.change.split())
        if not text_problem(change, MAX_WORDS["instructcir"], prompts.values(), (seen, wanted)):
            break
    return Draft([Caption(change)], seen, wanted, names=[])


BACKGROUND = re.compile(r"background|backdrop|surroundings|setting", re.IGNORECASE)
RECIPES = {"good4cir": good4cir, "instructcir": instructcir}


def _names(found: DescribedObject) -> list[str]:
    """Return the words that captions use for an object. Captions name the grass or the wall, not the background."""
    is_background = BACKGROUND.search(found.name)
    return [found.name, *found.descriptors] if is_background else [found.name]


def _as_set(objects: list[DescribedObject]) -> set[tuple]:
    return {(found.name, *found.descriptors) for found in objects}
