"""A test world for ImageScope: numbered images, a CLIP that compares their numbers, and four roles that know them.

The captioner writes the number of an image, and the reasoner computes the number of the target (wrong by `off`). The
verifier and the evaluator read the number of an image. Each role can be made to fail on some of its requests.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from contextcir.chat.answers import parse_answer
from contextcir.chat.exchange import ChatRequest, Outcome
from contextcir.chat.prices import FREE
from contextcir.chat.server import ChatServer
from contextcir.cli.imagescope import panel_of
from contextcir.cli.imagescope_arguments import ImageScopeArguments
from contextcir.cli.servers import ServerArguments
from contextcir.data.images import load_image
from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.imagescope import ImageScope, Panel, ReasonedRetriever, Role, Roles
from contextcir.retrieval.imagescope.trace import read_trace
from tests.tiny_triplets import png

ROLES = ("captioner", "reasoner", "verifier", "evaluator")


def plus(text: str, reference: int | None) -> int:
    """The target of "plus 5" and image 10 is image 15; that of "picture 7" without a reference is image 7."""
    return (reference or 0) + int(text.split()[-1])


def world(numbers=range(40), target=plus, **options) -> "World":
    """A world of random images."""
    return World({number: png(number) for number in numbers}, target, **options)


def composed(reference: int, number: int, id_: str = "q", **options) -> Query:
    """A query for the image `reference + number`."""
    return Query(id=id_, modification_text=f"plus {number}", reference_id=f"p{reference}", **options)


def trace_of(folder: Path) -> dict[str, dict]:
    """The lines of a trace by query id."""
    return {record["query"]: record for record in read_trace(folder / "trace.jsonl")}


def block(tag: str, prompt: str):
    """The content of a tag of a prompt; `None` if there is no such tag."""
    found = re.search(f"<{tag}>(.*)</{tag}>", prompt, re.DOTALL)
    return found and found[1]


class World:
    """
    Args:
        pictures: Number -> image.
        target: Instruction and number of the reference (or `None`) -> number of the target.
        off: Error of the numbers in the reasoner's descriptions.
    """

    def __init__(self, pictures: dict, target: Callable[[str, int | None], int], off: int = 0):
        self.numbers = {load_image(image).tobytes(): number for number, image in pictures.items()}
        self.pictures, self.target, self.off = pictures, target, off
        self.asked: dict[str, list[ChatRequest]] = defaultdict(list)
        self.answered = 0
        self.faults = {}  # role -> a function of the request that returns an Outcome, or raises, or returns None
        self.texts = {}  # role -> a function of the request that returns the raw text of the answer, or None

    # --- the parts of a retriever ---

    def gallery(self) -> Gallery:
        return Gallery([f"p{number}" for number in self.pictures], list(self.pictures.values()))

    def clip(self) -> DenseRetriever:
        def embed(number):
            if number is None:
                return [0.0, 0.0, 1.0]
            angle = math.pi * number / 1000
            return [math.cos(angle), math.sin(angle), 0.0]

        def number_in(text):
            found = re.search(r"\d+", text)
            return int(found[0]) - 0.2 if found else None  # so that two numbers are never equally near

        return DenseRetriever(
            lambda images: torch.tensor([embed(self.number(image)) for image in images]),
            lambda images, texts: torch.tensor([embed(number_in(text)) for text in texts]),
        )

    def panel(self, folder: Path, *, models: dict[str, str] | None = None, **options) -> Panel:
        """A panel without a ledger; `models` renames models."""
        names = {role: f"model-{role}" for role in ROLES} | (models or {})
        roles = Roles(**{role: Role(name, self.ask) for role, name in names.items()})
        return Panel(roles, folder, cache=folder / "cache", **options)

    def reasoned(self, panel: Panel, tau: float = 0.15) -> ReasonedRetriever:
        return ReasonedRetriever(panel, self.clip(), tau=tau)

    def scope(self, folder: Path, *, tau=0.15, verified=20, evaluated=3, **options) -> ImageScope:
        panel = self.panel(folder, **options)
        return ImageScope(panel, self.reasoned(panel, tau), verified=verified, evaluated=evaluated)

    def server(self, model: str, url: str | None = None) -> "WorldServer":
        return WorldServer(self, model)

    @contextmanager
    def panel_with_ledger(
        self, folder: Path, *, models: dict[str, str] | None = None, benchmark: str = "", concurrency: int = 32
    ) -> Iterator[Panel]:
        """The panel that the command line builds, with a ledger, and this world in place of its servers."""
        names = {role: f"model-{role}" for role in ROLES} | (models or {})
        servers = ServerArguments(concurrency=concurrency)
        servers.build = self.server
        args = ImageScopeArguments(trace=str(folder), cache=str(folder / "cache"), **names)
        with panel_of(args, servers, benchmark) as panel:
            yield panel

    # --- the roles ---

    def number(self, image) -> int:
        return self.numbers[load_image(image).tobytes()]

    def counts(self) -> Counter:
        return Counter({role: len(requests) for role, requests in self.asked.items()})

    async def ask(self, request: ChatRequest) -> Outcome:
        self.asked[request.role].append(request)
        if (fault := self.faults.get(request.role)) and (outcome := fault(request)):
            return outcome
        self.answered += 1
        text = self.texts.get(request.role, lambda _: None)(request)
        text = json.dumps(getattr(self, request.role)(request)) if text is None else text
        usage = {"model": "m", "prompt_tokens": 10, "completion_tokens": 5, "usd": 0.5}
        try:
            return Outcome("answered", parse_answer(text, request.schema), text, **usage)
        except ValueError as error:
            return Outcome("malformed", text=text, error=str(error), **usage)

    def captioner(self, request):
        (image,) = request.images
        return {"caption": f"picture {self.number(image)}"}

    def asked_for(self, prompt: str) -> int:
        reference = block("reference_caption", prompt)
        said = block("instruction", prompt)
        if dialogue := block("dialogue", prompt):
            said = ", ".join(json.loads(dialogue))
        return self.target(said, reference and int(reference.removeprefix("picture ")))

    def reasoner(self, request):
        assert not request.images
        if request.schema.__name__ == "Propositions":
            wanted = self.asked_for(request.prompt)
            asked = [(f"Is it picture {wanted}?", "yes"), (f"Is it picture {wanted + 1}?", "no")]
            return {"propositions": [{"question": text, "expected": answer} for text, answer in asked]}
        seen = self.asked_for(request.prompt) + self.off
        return {"steps": [], "core": f"{seen}", "detailed": f"picture {seen}", "comprehensive": f"a picture {seen}"}

    def verifier(self, request):
        (image,) = request.images
        questions = json.loads(block("questions", request.prompt))
        return {"answers": ["yes" if f"Is it picture {self.number(image)}?" == text else "no" for text in questions]}

    def evaluator(self, request):
        *reference, candidate = map(self.number, request.images)
        wanted = self.target(block("instruction", request.prompt), reference[0] if reference else None)
        return {"reason": f"It is {candidate}.", "verdict": "accept" if candidate == wanted else "reject"}


class WorldServer(ChatServer):
    """A chat server that asks a world instead of sending requests."""

    def __init__(self, world: World, model: str):
        super().__init__(model, "http://127.0.0.1:9/v1", price=FREE)
        self.world = world

    async def complete(self, request: ChatRequest, on_response=None) -> Outcome:
        return await self.world.ask(request)
