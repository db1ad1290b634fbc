"""Pairs of images, and a chat model whose answers are fixed."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from contextcir.captions.inspection import Inspector
from contextcir.captions.pipeline import Captioner, ResultLog, caption_all
from contextcir.captions.recipes import load_prompts
from contextcir.captions.schemas import (
    DescribedObject,
    Difference,
    Differences,
    ImageCaption,
    ReferenceObjects,
    Reformulation,
    TargetObjects,
)
from contextcir.chat.exchange import Outcome
from contextcir.data.pairs import Pair

SOFA = DescribedObject(name="sofa", descriptors=["red", "velvet"])
LAMP = DescribedObject(name="floor lamp", descriptors=["tall"])
BLUE = DescribedObject(name="sofa", descriptors=["blue", "velvet"])


def change(text, operation="modify", source="sofa", target="sofa"):
    return Difference(operation=operation, text=text, source_object=source, target_object=target)


class Model:
    """An `ask` with one answer for each schema: a value, an outcome, an exception, or a function of the request."""

    def __init__(self, **answers):
        self.answers = {
            "ReferenceObjects": ReferenceObjects(objects=[SOFA, LAMP]),
            "TargetObjects": TargetObjects(objects=[BLUE]),
            "Differences": Differences(
                differences=[change("Make the sofa blue"), change("Take the lamp away", "remove", "floor lamp", None)]
            ),
            "ImageCaption": lambda request: ImageCaption(caption=f"A room called {Path(request.images[0]).stem}."),
            "Reformulation": Reformulation(change="Make the sofa blue."),
        } | answers
        self.requests = []

    async def __call__(self, request):
        self.requests.append(request)
        await asyncio.sleep(0)
        answer = self.answers[request.schema.__name__]
        answer = answer(request) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        number = f"request-{len(self.requests)}"
        if isinstance(answer, Outcome):
            return replace(answer, request_id=number)
        return Outcome("answered", answer, model="tiny-2026", request_id=number)


@pytest.fixture
def pair(tmp_path, images) -> Pair:
    """The first two of four images in `tmp_path`."""
    for number in range(4):
        images[number].save(tmp_path / f"{number}.png")
    return Pair(str(tmp_path / "0.png"), str(tmp_path / "1.png"), "0.png", "1.png")


def pairs_of(pair, count):
    return [replace(pair, target_id=f"{number}") for number in range(count)]


def run(pairs, model, tmp_path, recipe="good4cir", in_flight=3, **inspector):
    """Take pairs through a recipe; return their results, the captioner and the log."""
    captioner = Captioner(recipe, model, load_prompts(recipe), Inspector(**inspector))
    log = ResultLog(tmp_path / "log.jsonl", len(pairs))
    seen = []
    asyncio.run(caption_all(pairs, captioner.caption, log, in_flight=in_flight, on_result=seen.append))
    assert len(seen) == len(pairs)
    results = list(log)
    assert [result.id for result in results] == [pair.id for pair in pairs]
    return results, captioner, log
