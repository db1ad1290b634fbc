"""A run that asks nobody: what would be sent, and about what it would cost.

Requests of later stages hold the answers of earlier ones, which nobody knows yet. Here they are stand-ins of a typical
length, and marked as such; a rehearsal tells about costs, never about captions.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextcir.captions.inspection import Inspector
from contextcir.captions.pipeline import Captioner
from contextcir.captions.schemas import (
    DescribedObject,
    Difference,
    Differences,
    ImageCaption,
    ReferenceObjects,
    Reformulation,
    TargetObjects,
)
from contextcir.chat.prompts import Prompt
from contextcir.chat.server import ChatRequest, ChatServer, Outcome
from contextcir.data.pairs import Pair

OBJECTS, DESCRIPTORS, DIFFERENCES, CAPTION_WORDS = 10, 6, 8, 90
CHARACTERS_PER_TOKEN = 4  # of English, roughly
REHEARSED_PAIRS = 20  # of which a rehearsal takes the mean
SHOWN_REQUESTS = 3


def _objects(number: int) -> list[DescribedObject]:
    descriptors = [f"(descriptor {place} of the model)" for place in range(DESCRIPTORS)]
    return [
        DescribedObject(name=f"(object {place}, answer {number})", descriptors=descriptors) for place in range(OBJECTS)
    ]


def _differences(number: int) -> list[Difference]:
    text = "(a difference in the words of the model, which may well have fifteen of them or more)"
    return [
        Difference(operation="modify", text=text, source_object="(object)", target_object="(object)")
    ] * DIFFERENCES


STAND_INS = {
    ReferenceObjects: lambda number: ReferenceObjects(objects=_objects(number)),
    TargetObjects: lambda number: TargetObjects(objects=_objects(number)),
    Differences: lambda number: Differences(differences=_differences(number)),
    ImageCaption: lambda number: ImageCaption(caption=f"(caption {number}" + " word" * CAPTION_WORDS + ")"),
    Reformulation: lambda number: Reformulation(change="(a change in the words of the model)"),
}


@dataclass(frozen=True)
class Rehearsed:
    """A request that would be sent, and the tokens that it would likely take beside those of its images."""

    request: ChatRequest
    prompt_tokens: int
    completion_tokens: int


class Rehearsal:
    """
    An `ask` that answers with stand-ins.

    Attributes:
        requests (`list[Rehearsed]`): All that would have been sent.
    """

    def __init__(self):
        self.requests: list[Rehearsed] = []

    async def __call__(self, request: ChatRequest) -> Outcome:
        """Remember a request and answer it."""
        value = STAND_INS[request.schema](len(self.requests))
        lengths = len(request.prompt), len(value.model_dump_json())
        self.requests.append(Rehearsed(request, *(length // CHARACTERS_PER_TOKEN for length in lengths)))
        return Outcome("answered", value)

    def cost(self, counts: Mapping[str, int], server: ChatServer) -> tuple[float, float]:
        """
        What a whole run would cost, by the mean request of each stage.

        Args:
            counts (`Mapping[str, int]`): Requests of each stage, see [`count_requests`].
            server (`ChatServer`): Whose prices count.

        Returns:
            `tuple[float, float]`: USD, likely, and with answers as long as they may be; without retries.
        """
        likely = most = 0.0
        for stage, count in counts.items():
            if some := [one for one in self.requests if one.request.role == stage]:
                costs = [
                    server.price.usd(one.prompt_tokens + self._image_tokens(one, server), one.completion_tokens)
                    for one in some
                ]
                likely += count * sum(costs) / len(some)
                most += count * sum(server.estimate(one.request) for one in some) / len(some)
        return likely, most

    @staticmethod
    def _image_tokens(one: Rehearsed, server: ChatServer) -> int:
        return len(one.request.images) * server.price.image_tokens


def count_requests(pairs: Iterable[Pair]) -> dict[str, int]:
    """How many requests each stage of a recipe sends: those about one image alone are sent once for it."""
    references, targets, distinct = set(), set(), set()
    for pair in pairs:
        references.add(pair.reference_id)
        targets.add(pair.target_id)
        distinct.add(pair.id)
    of_images = {"reference_objects": len(references), "image_caption": len(references | targets)}
    return of_images | dict.fromkeys(("target_objects", "differences", "reformulation"), len(distinct))


async def rehearse(
    pairs: Sequence[Pair],
    recipe: str,
    prompts: Mapping[str, Prompt],
    server: ChatServer,
    inspector: Inspector,
    *,
    free_stages: Collection[str] = (),
) -> str:
    """
    What would be sent, and what all would cost, in words.

    Args:
        pairs (`Sequence[Pair]`): Of the run; the first of them are rehearsed.
        recipe (`str`): `good4cir` or `instructcir`.
        prompts (`Mapping[str, Prompt]`): Of the recipe.
        server (`ChatServer`): Who would be asked.
        inspector ([`Inspector`]): Looks at the images beforehand.
        free_stages (`Collection[str]`): Stages that cost nothing, since the server does not answer them.

    Returns:
        `str`: Three requests, and the likely and the highest cost.

    Raises:
        `ValueError`: None of the pairs can be used.
    """
    rehearsal, results = Rehearsal(), Counter()
    captioner = Captioner(recipe, rehearsal, prompts, inspector)
    for pair in (pairs[place] for place in range(min(REHEARSED_PAIRS, len(pairs)))):
        result = await captioner.caption(pair)
        results[result.detail if result.reason == "unreadable_image" else ""] += 1
    if not rehearsal.requests:
        raise ValueError(f"None of the first {results.total()} pairs can be used: {next(iter(results))}")
    lines = []
    for request in (rehearsed.request for rehearsed in rehearsal.requests[:SHOWN_REQUESTS]):
        *images, text = _parts(server.body(request))
        shown = ", ".join(f"{url.partition(';')[0]} of {len(url):,} characters" for url in images)
        lines += [f"--- {request.role}: {request.schema.__name__} of {shown or 'no image'}", text]
    counts = {stage: count for stage, count in count_requests(pairs).items() if stage not in free_stages}
    likely, most = rehearsal.cost(counts, server)
    return "\n".join(
        [
            *lines,
            f"{len(pairs):,} pairs: about ${likely:,.2f}, or ${most:,.2f} if every answer is as long as max_tokens"
            f" allows, with prices {server.price.source}.",
            "Retries are not counted, and answers of earlier stages are stand-ins of typical length."
            " Nothing was sent.",
        ]
    )


def _parts(body: dict[str, Any]) -> list[str]:
    """The image URLs of a request, and its text."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return [content]
    return [part["text"] if part["type"] == "text" else part["image_url"]["url"] for part in content]
