"""Numbered pictures, a CLIP that sees how near their numbers are, and four roles that answer by what they are shown.

A picture's number is its truth. The captioner says it; the reasoner says which number is asked for, `off` by some; the
verifier and the evaluator look at the picture. Any role can be broken for some of its questions.
"""

import json
import math
import re
from collections import Counter, defaultdict

import torch

from contextcir.chat.answers import parse_answer
from contextcir.chat.server import ChatRequest, Outcome
from contextcir.data.images import load_image
from contextcir.retrieval.base import Gallery
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.imagescope import ImageScope
from contextcir.retrieval.imagescope.panel import Panel
from contextcir.retrieval.imagescope.reason import ReasonedRetriever
from contextcir.retrieval.imagescope.roles import Role, Roles


def block(tag: str, prompt: str):
    """What stands in a tag of a prompt, `None` where there is none."""
    found = re.search(f"<{tag}>(.*)</{tag}>", prompt, re.DOTALL)
    return found and found[1]


class World:
    """
    Args:
        pictures: Number -> image.
        target: Instruction and number of the reference (None: there is none) -> number of what is asked for.
        off: By how much the reasoner's descriptions miss it.
    """

    def __init__(self, pictures: dict, target, off: int = 0):
        self.numbers = {load_image(image).tobytes(): number for number, image in pictures.items()}
        self.pictures, self.target, self.off = pictures, target, off
        self.asked: dict[str, list[ChatRequest]] = defaultdict(list)
        self.answered = 0
        self.faults = {}  # role -> a function of the request that gives an Outcome, raises, or gives None
        self.texts = {}  # role -> a function of the request that gives the raw text of the answer, or None
        self.usd = 0.5

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
            return int(found[0]) - 0.2 if found else None  # of two that are as near, the lower number is nearer

        return DenseRetriever(
            lambda images: torch.tensor([embed(self.number(image)) for image in images]),
            lambda images, texts: torch.tensor([embed(number_in(text)) for text in texts]),
        )

    def roles(self, **models: str) -> Roles:
        names = ("captioner", "reasoner", "verifier", "evaluator")
        return Roles(**{name: Role(models.get(name, f"model-{name}"), self.ask) for name in names})

    def panel(self, folder, **options) -> Panel:
        models = options.pop("models", {})
        return Panel(self.roles(**models), folder, cache=folder / "cache", **options)

    def scope(self, folder, *, tau=0.15, verified=20, evaluated=3, **options) -> ImageScope:
        panel = self.panel(folder, **options)
        first = ReasonedRetriever(panel, self.clip(), "clip", tau=tau)
        return ImageScope(panel, first, verified=verified, evaluated=evaluated)

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
        usage = {"model": "m", "prompt_tokens": 10, "completion_tokens": 5, "usd": self.usd}
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
