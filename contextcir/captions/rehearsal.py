"""A dry run: what would be sent, and about what it would cost.

Requests of later stages contain answers of earlier ones, which are not known yet. Here these are placeholders of a
typical length, marked as such. So a dry run estimates costs, and says nothing about captions.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from statistics import fmean

from pydantic import BaseModel

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
from contextcir.chat.exchange import ChatRequest, Outcome
from contextcir.chat.prices import Price
from contextcir.chat.prompts import Prompt
from contextcir.chat.server import ChatServer
from contextcir.data.pairs import Pair

OBJECTS, DESCRIPTORS, DIFFERENCES, CAPTION_WORDS = 10, 6, 8, 90
CHARACTERS_PER_TOKEN = 4  # of English, roughly
REHEARSED_PAIRS = 20  # whose mean is the estimate
SHOWN_REQUESTS = 3


def _objects(number: int) -> list[DescribedObject]:
    descriptors = [f"(descriptor {place} of the model)" for place in range(DESCRIPTORS)]
    return [
        DescribedObject(name=f"(object {place}, answer {number})", descriptors=descriptors) for place in range(OBJECTS)
    ]


_DIFFERENCE = Difference(
    operation="modify",
    text="(a difference in the words of the model, which may well have fifteen of them or more)",
    source_object="(object)",
    target_object="(object)",
)

PLACEHOLDERS: dict[type[BaseModel] | None, Callable[[int], BaseModel]] = {  # made from the number of the answer
    ReferenceObjects: lambda number: ReferenceObjects(objects=_objects(number)),
    TargetObjects: lambda number: TargetObjects(objects=_objects(number)),
    Differences: lambda number: Differences(differences=[_DIFFERENCE] * DIFFERENCES),
    ImageCaption: lambda number: ImageCaption(caption=f"(caption {number}" + " word" * CAPTION_WORDS + ")"),
    Reformulation: lambda number: Reformulation(change="(a change in the words of the model)"),
}


class Rehearsal:
    """
    An `ask` that sends nothing and answers with placeholders.

    Attributes:
        requests (`list[tuple[ChatRequest, BaseModel]]`): All requests that would have been sent, and their answers.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[ChatRequest, BaseModel]] = []

    async def __call__(self, request: ChatRequest) -> Outcome:
        """Record a request and answer it."""
        value = PLACEHOLDERS[request.schema](len(self.requests))
        self.requests.append((request, value))
        return Outcome("answered", value)

    def cost(self, counts: Mapping[str, int], server: ChatServer) -> tuple[float, float]:
        """
        Estimate the cost of a whole run from the mean request of each stage.

        Args:
            counts (`Mapping[str, int]`): Number of requests of each stage, from [`count_requests`].
            server (`ChatServer`): Its prices are used.

        Returns:
            `tuple[float, float]`: USD, likely, and with answers of maximum length; without retries.
        """
        likely = most = 0.0
        for stage, count in counts.items():
            if some := [one for one in self.requests if one[0].role == stage]:
                likely += count * fmean(_likely_cost(request, answer, server.price) for request, answer in some)
                most += count * fmean(server.estimate(request) for request, _ in some)
        return likely, most


def _likely_cost(request: ChatRequest, answer: BaseModel, price: Price) -> float:
    tokens = len(request.prompt) // CHARACTERS_PER_TOKEN + len(request.images) * price.image_tokens
    return price.usd(tokens, len(answer.model_dump_json()) // CHARACTERS_PER_TOKEN)


def count_requests(pairs: Iterable[Pair]) -> dict[str, int]:
    """Count the requests of each stage of both recipes. A request about a single image is sent once per image."""
    references, targets, distinct = set(), set(), set()
    for pair in pairs:
        references.add(pair.reference_id)
        targets.add(pair.target_id)
        distinct.add(pair.id)
    counts = {"reference_objects": len(references), "image_caption": len(references | targets)}
    return counts | dict.fromkeys(("target_objects", "differences", "reformulation"), len(distinct))


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
    Describe what would be sent, and what the whole run would cost.

    Args:
        pairs (`Sequence[Pair]`): All pairs; the first of them are rehearsed.
        recipe (`str`): `good4cir` or `instructcir`.
        prompts (`Mapping[str, Prompt]`): The prompts of the recipe.
        server (`ChatServer`): The server that would answer.
        inspector ([`~contextcir.captions.inspection.Inspector`]): Checks the images beforehand.
        free_stages (`Collection[str]`): Stages that a local model answers.

    Returns:
        `str`: Three requests, and the likely and the highest cost.

    Raises:
        `ValueError`: None of the pairs can be used.
    """
    rehearsal = Rehearsal()
    captioner = Captioner(recipe, rehearsal, prompts, inspector)
    results = [await captioner.caption(pairs[place]) for place in range(min(REHEARSED_PAIRS, len(pairs)))]
    if not rehearsal.requests:
        reason = next((result.detail or result.reason for result in results), "there are none")
        raise ValueError(f"None of the first {len(results)} pairs can be used: {reason}")
    lines = []
    for request, _ in rehearsal.requests[:SHOWN_REQUESTS]:
        *images, text = _parts(server, request)
        shown = ", ".join(f"{url.partition(';')[0]} of {len(url):,} characters" for url in images) or "no image"
        lines += [f"--- {request.role}: {request.schema and request.schema.__name__} of {shown}", text]
    counts = {stage: count for stage, count in count_requests(pairs).items() if stage not in free_stages}
    likely, most = rehearsal.cost(counts, server)
    lines += [
        f"{len(pairs):,} pairs: about ${likely:,.2f}, or ${most:,.2f} if every answer is as long as max_tokens allows,"
        f" with prices {server.price.source}.",
        "Retries are not counted, and answers of earlier stages are placeholders of typical length. Nothing was sent.",
    ]
    return "\n".join(lines)


def _parts(server: ChatServer, request: ChatRequest) -> list[str]:
    """Return the image URLs of a request, then its text."""
    content = server.body(request)["messages"][-1]["content"]
    if isinstance(content, str):
        return [content]
    return [part["text"] if part["type"] == "text" else part["image_url"]["url"] for part in content]
