"""What ImageScope asks of its four roles, and the closed shapes in which they answer (Luo et al., WWW 2025).

Instructions are text files (`contextcir/retrieval/imagescope/prompts`), and their data follows in tags. Answers must
fit a schema: "eyes" is no yes, and a string is no list. Where a benchmark words its queries in a way of its own, a
step has a file for it, `<step>.<benchmark>.txt`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, create_model

from contextcir.chat.exchange import Ask, ChatRequest
from contextcir.chat.prompts import Prompt, read_prompt, tagged

FOLDER = Path(__file__).with_name("prompts")
STEPS = (
    "caption",
    "reason_composed",
    "reason_text",
    "reason_chat",
    "propose_composed",
    "propose_text",
    "verify",
    "evaluate_composed",
    "evaluate_text",
)


@dataclass(frozen=True)
class Role:
    """
    Who plays one of the four roles.

    Args:
        model (`str`): Its name, by which its answers are told from those of another.
        ask (`Ask`): Where its questions go, see `contextcir/chat/server.py`.
    """

    model: str
    ask: Ask


@dataclass(frozen=True)
class Roles:
    """
    The four roles. One model may play several.

    Args:
        captioner ([`Role`]): Describes images. In the paper llava-hf/llava-v1.6-vicuna-7b-hf.
        reasoner ([`Role`]): Says what the target looks like, and by which questions it is known. It sees no images. In
            the paper meta-llama/Meta-Llama-3-8B-Instruct.
        verifier ([`Role`]): Answers questions about one image. In the paper google/paligemma-3b-mix-224.
        evaluator ([`Role`]): Accepts a candidate or not. In the paper OpenGVLab/InternVL2-8B.
    """

    captioner: Role
    reasoner: Role
    verifier: Role
    evaluator: Role


# --- how they answer -------------------------------------------------------------------------------------------------


def _word(value: Any) -> Any:
    """ "Yes.", " NO" and JSON's true mean what they say; whatever else it is, the schema decides."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value.strip().rstrip(".!").lower() if isinstance(value, str) else value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("expected some words, got none")
    return value.strip()


Text = Annotated[str, AfterValidator(_not_blank)]
YesNo = Annotated[Literal["yes", "no"], BeforeValidator(_word)]
Kind = Annotated[
    Literal["addition", "removal", "modification", "comparison", "retention"],
    BeforeValidator(_word),
]


class ImageCaption(BaseModel):
    """What the captioner says of an image."""

    caption: Text


class ReasoningStep(BaseModel):
    """One part of an instruction, and what it does to what."""

    part: str
    kind: Kind
    affects: str


class Reasoning(BaseModel):
    """What the reasoner makes of an instruction: its parts, and the target in three descriptions."""

    steps: list[ReasoningStep]
    core: Text
    detailed: Text
    comprehensive: Text

    @property
    def descriptions(self) -> list[str]:
        """`list[str]`: From the shortest to the longest."""
        return [self.core, self.detailed, self.comprehensive]


class Proposition(BaseModel):
    """A question about an image, and the answer that the target gets."""

    question: Text
    expected: YesNo


class Propositions(BaseModel):
    """By what the target is known."""

    propositions: list[Proposition]


class Verification(BaseModel):
    """The verifier's answers, in the order of the questions."""

    answers: list[YesNo]


class Evaluation(BaseModel):
    """The evaluator's verdict."""

    reason: str
    verdict: Annotated[Literal["accept", "reject"], BeforeValidator(_word)]


@lru_cache(maxsize=64)
def verification_of(count: int) -> type[Verification]:
    """A [`Verification`] that holds `count` answers. Fewer would be of nobody knows which questions, so that an answer
    of another length is malformed like any other. (No JSON schema that all servers take can say so.)"""

    def as_many(answers: list[str]) -> list[str]:
        if len(answers) != count:
            raise ValueError(f"expected {count} answers, one for each question, got {len(answers)}")
        return answers

    answers_type = Annotated[list[YesNo], AfterValidator(as_many)]
    return create_model(
        "Verification", __base__=Verification, __doc__=Verification.__doc__, answers=(answers_type, ...)
    )


# --- what they are asked ---------------------------------------------------------------------------------------------


def load_prompts(benchmark: str = "") -> dict[str, Prompt]:
    """
    Read the texts of all steps.

    Args:
        benchmark (`str`, *optional*): Its own texts, where there are some, are taken instead of the general ones.

    Returns:
        `dict[str, Prompt]`: The prompt of each of `STEPS`.

    Raises:
        `ValueError`: A file does not begin with its version.
    """
    own = {step: FOLDER / f"{step}.{benchmark}.txt" for step in STEPS}
    return {step: read_prompt(file if file.is_file() else FOLDER / f"{step}.txt") for step, file in own.items()}


class Questions:
    """
    The requests to the roles.

    Args:
        prompts (`dict[str, Prompt]`): From [`load_prompts`].
    """

    def __init__(self, prompts: dict[str, Prompt]):
        self.prompts = prompts

    @property
    def versions(self) -> dict[str, str]:
        """`dict[str, str]`: Version and digest of the text of each step."""
        return {step: f"{prompt.version} {prompt.hash}" for step, prompt in self.prompts.items()}

    def caption(self, image: Any) -> ChatRequest:
        """To the captioner: what is in an image?"""
        return ChatRequest("captioner", self._worded("caption"), (image,), ImageCaption)

    def reason(self, instruction: str, reference_caption: str | None, *, composed: bool) -> ChatRequest:
        """To the reasoner: what does the target look like?"""
        step = "reason_composed" if composed else "reason_text"
        prompt = self._worded(step, reference_caption=reference_caption, instruction=instruction)
        return ChatRequest("reasoner", prompt, schema=Reasoning)

    def reason_on(self, turns: Sequence[str], previous: str | None, reference_caption: str | None) -> ChatRequest:
        """To the reasoner: what does the image look like that people talk about, after one more turn?"""
        material = {"dialogue": list(turns), "previous_description": previous}
        prompt = self._worded("reason_chat", reference_caption=reference_caption, **material)
        return ChatRequest("reasoner", prompt, schema=Reasoning)

    def propose(
        self, instruction: str, reference_caption: str | None, description: str | None, *, composed: bool
    ) -> ChatRequest:
        """To the reasoner: by which questions is the target known?"""
        prompt = self._worded(
            "propose_composed" if composed else "propose_text",
            reference_caption=reference_caption,
            instruction=instruction,
            previous_description=description,
        )
        return ChatRequest("reasoner", prompt, schema=Propositions)

    def verify(self, questions: Sequence[str], candidate: Any) -> ChatRequest:
        """To the verifier: what holds in this image?"""
        prompt = self._worded("verify", questions=list(questions))
        return ChatRequest("verifier", prompt, (candidate,), verification_of(len(questions)))

    def evaluate(self, instruction: str, reference: Any | None, candidate: Any) -> ChatRequest:
        """To the evaluator: is this what was asked for?"""
        step = "evaluate_text" if reference is None else "evaluate_composed"
        images = (candidate,) if reference is None else (reference, candidate)
        return ChatRequest("evaluator", self._worded(step, instruction=instruction), images, Evaluation)

    def _worded(self, step: str, **material: str | list[str] | None) -> str:
        blocks = [
            tagged(tag, content.strip() if isinstance(content, str) else content)
            for tag, content in material.items()
            if content is not None
        ]
        return "\n\n".join([self.prompts[step].text, *blocks])
