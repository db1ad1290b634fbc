"""The stages that lead from two images to difference captions, as coroutines over `ask`.

good4cir (ConText-CIR, section 3.3): list the objects of the reference image; list those of the target image, given the
first list, so that what has not changed is described in the same words; write the differences of the two lists. The
third stage sees no image, so that nothing gets into a caption that is in neither list.

InstructCIR (section II-A): caption each image by itself, then write the change from one caption to the other in at
most 12 words; an answer that will not do is asked for once more. That each image is captioned once is up to `ask`,
which never sends a request twice.

Left out: retries, cost and the form of requests, which are `ask`'s.
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
from contextcir.chat.prompts import Prompt
from contextcir.chat.server import Ask, ChatRequest, Outcome
from contextcir.data.pairs import Pair


class StageError(Exception):
    """A stage has no usable answer. `stage` and `kind` say which and why, as reports count it."""

    def __init__(self, stage: str, kind: str, detail: str = ""):
        super().__init__(f"{stage}: {kind}. {detail}")
        self.stage, self.kind, self.detail = stage, kind, detail


@dataclass
class Conversation:
    """All that is asked about one pair."""

    ask: Ask
    _asked: int = 0
    _outcomes: dict[int, tuple[str, Outcome]] = field(default_factory=dict)

    @property
    def outcomes(self) -> list[tuple[str, Outcome]]:
        """Stages and what came of them, in the order of the questions: answers come as they like."""
        return [self._outcomes[number] for number in sorted(self._outcomes)]

    async def answer(
        self, stage: str, prompt: str, schema: type[BaseModel], images: tuple[Any, ...] = (), attempt: int = 0
    ) -> Any:
        """An instance of `schema`, or a [`StageError`]."""
        number, self._asked = self._asked, self._asked + 1
        outcome = await self.ask(ChatRequest(role=stage, prompt=prompt, images=images, schema=schema, attempt=attempt))
        self._outcomes[number] = (stage, outcome)
        if outcome.kind != "answered":
            raise StageError(stage, outcome.kind, outcome.error or outcome.text)
        return outcome.value


@dataclass(frozen=True)
class Caption:
    """What to change, and, where the stages know it, by which operation and from which object to which."""

    text: str
    operation: str | None = None
    source_object: str | None = None
    target_object: str | None = None


@dataclass(frozen=True)
class Draft:
    """
    What the stages say of a pair.

    Args:
        captions (`list[Caption]`): As the model wrote them.
        reference: What it saw in the reference image: objects as JSON, or a caption.
        target: Likewise.
        names (`list[str]`): What the objects of both lists are called; empty where there are no lists.
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
        conversation ([`Conversation`]): Keeps what was answered.
        prompts (`Mapping[str, Prompt]`): From [`~contextcir.captions.load_prompts`].

    Raises:
        [`StageError`]: A stage was not answered, or the lists leave nothing to say.
    """
    seen = await conversation.answer(
        "reference_objects", prompts["reference_objects"].render(), ReferenceObjects, (pair.reference_image,)
    )
    wanted = await conversation.answer(
        "target_objects",
        prompts["target_objects"].render(reference_objects=seen.objects),
        TargetObjects,
        (pair.target_image,),
    )
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
    answers = await asyncio.gather(
        *(
            conversation.answer("image_caption", prompt, ImageCaption, (image,))
            for image in (pair.reference_image, pair.target_image)
        ),
        return_exceptions=True,  # or the second would be left alone where the first fails
    )
    if error := next((answer for answer in answers if isinstance(answer, BaseException)), None):
        raise error
    seen, wanted = (answer.caption.strip() for answer in answers)
    if is_empty(seen) or is_empty(wanted):
        raise StageError("image_caption", "empty", "The model wrote an empty caption.")
    if echoes_prompt(f"{seen} {wanted}", [prompts["image_caption"]]):
        raise StageError("image_caption", "echoes_prompt", "The model wrote down what it was told.")
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
    """What captions call an object. Nobody calls a background so: they speak of the grass or the wall that it is."""
    is_background = BACKGROUND.search(found.name)
    return [found.name, *found.descriptors] if is_background else [found.name]


def _as_set(objects: list[DescribedObject]) -> set[tuple]:
    return {(found.name, *found.descriptors) for found in objects}
