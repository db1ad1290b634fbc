"""Prompts of ImageScope's four roles, and the schemas of their answers (Luo et al., WWW 2025).

Instructions are text files (`contextcir/retrieval/imagescope/prompts`); the data follows in tags. A step may have a
file for a benchmark with other wording, `<step>.<benchmark>.txt`. Answers must fit a schema exactly: "eyes" is not
"yes", and a string is not a list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, create_model

from contextcir.chat.exchange import Ask, ChatRequest
from contextcir.chat.prompts import Prompt, read_prompt, tagged
from contextcir.chat.schemas import plain_word

FOLDER = Path(__file__).with_name("prompts")


@dataclass(frozen=True)
class Role:
    """
    A chat model in one of the four roles.

    Args:
        model (`str`): Its name, in errors and in the key of cached captions.
        ask (`Ask`): Asks the model. If it is that of a [`~contextcir.chat.dispatch.Dispatcher`], all answers are kept
            in its ledger, and a repeated search asks only new questions. Otherwise, it asks again.
    """

    model: str
    ask: Ask


@dataclass(frozen=True)
class Roles:
    """
    The four roles. One model may play several.

    Args:
        captioner ([`Role`]): Describes images. The paper's model is llava-hf/llava-v1.6-vicuna-7b-hf.
        reasoner ([`Role`]): Describes the target and writes questions about it, without images;
            meta-llama/Meta-Llama-3-8B-Instruct.
        verifier ([`Role`]): Answers questions about one image; google/paligemma-3b-mix-224.
        evaluator ([`Role`]): Accepts or rejects a candidate; OpenGVLab/InternVL2-8B.
    """

    captioner: Role
    reasoner: Role
    verifier: Role
    evaluator: Role


# --- answers ---------------------------------------------------------------------------------------------------------
# Models read the docstrings of these classes, as descriptions in the JSON schema: they are part of the prompts.


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("expected a text, got only white space")
    return value.strip()


Text = Annotated[str, AfterValidator(_not_blank)]
YesNo = Annotated[Literal["yes", "no"], BeforeValidator(plain_word)]
Change = Literal["addition", "removal", "modification", "comparison", "retention"]
Kind = Annotated[Change, BeforeValidator(plain_word)]


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
    verdict: Annotated[Literal["accept", "reject"], BeforeValidator(plain_word)]


@lru_cache(maxsize=64)
def verification_of(count: int) -> type[Verification]:
    """Make a [`Verification`] with exactly `count` answers. Any other number is malformed, as the answers cannot be
    matched to the questions. (The JSON schemas that all servers accept cannot express this.)"""

    def check_count(answers: list[str]) -> list[str]:
        if len(answers) != count:
            raise ValueError(f"expected {count} answers, one for each question, got {len(answers)}")
        return answers

    answers_type = Annotated[list[YesNo], AfterValidator(check_count)]
    return create_model(
        "Verification", __base__=Verification, __doc__=Verification.__doc__, answers=(answers_type, ...)
    )


# --- questions -------------------------------------------------------------------------------------------------------


def load_prompts(benchmark: str = "") -> dict[str, Prompt]:
    """Read the prompt of each step: that of the benchmark if there is one, else the general one. Raises a `ValueError`
    if a file does not begin with its version."""
    general = {file.stem: file for file in sorted(FOLDER.glob("*.txt")) if "." not in file.stem}
    own = {step: FOLDER / f"{step}.{benchmark}.txt" for step in general}
    return {step: read_prompt(own[step] if own[step].is_file() else file) for step, file in general.items()}


class Questions:
    """Build the requests to the roles, from the prompts that [`load_prompts`] reads."""

    def __init__(self, prompts: dict[str, Prompt]):
        self.prompts = prompts

    @property
    def versions(self) -> dict[str, str]:
        """`dict[str, str]`: Version and digest of the prompt of each step."""
        return {step: f"{prompt.version} {prompt.hash}" for step, prompt in self.prompts.items()}

    def caption(self, image: Any) -> ChatRequest:
        """Ask the captioner to describe an image."""
        return ChatRequest("captioner", self._prompt("caption"), (image,), ImageCaption)

    def reason(self, instruction: str, reference_caption: str | None, *, composed: bool) -> ChatRequest:
        """Ask the reasoner to describe the target."""
        step = "reason_composed" if composed else "reason_text"
        prompt = self._prompt(step, reference_caption=reference_caption, instruction=instruction)
        return ChatRequest("reasoner", prompt, schema=Reasoning)

    def reason_on(self, turns: Sequence[str], previous: str | None, reference_caption: str | None) -> ChatRequest:
        """Ask the reasoner to describe the target of a conversation, from the turns and the previous description."""
        material = {"dialogue": list(turns), "previous_description": previous}
        prompt = self._prompt("reason_chat", reference_caption=reference_caption, **material)
        return ChatRequest("reasoner", prompt, schema=Reasoning)

    def propose(
        self, instruction: str, reference_caption: str | None, description: str | None, *, composed: bool
    ) -> ChatRequest:
        """Ask the reasoner for propositions that identify the target."""
        step = "propose_composed" if composed else "propose_text"
        material = {"instruction": instruction, "previous_description": description}
        prompt = self._prompt(step, reference_caption=reference_caption, **material)
        return ChatRequest("reasoner", prompt, schema=Propositions)

    def verify(self, questions: Sequence[str], candidate: Any) -> ChatRequest:
        """Ask the verifier to answer the questions for one image."""
        prompt = self._prompt("verify", questions=list(questions))
        return ChatRequest("verifier", prompt, (candidate,), verification_of(len(questions)))

    def evaluate(self, instruction: str, reference: Any | None, candidate: Any) -> ChatRequest:
        """Ask the evaluator whether a candidate is the target."""
        step = "evaluate_text" if reference is None else "evaluate_composed"
        images = (candidate,) if reference is None else (reference, candidate)
        return ChatRequest("evaluator", self._prompt(step, instruction=instruction), images, Evaluation)

    def _prompt(self, step: str, **material: str | list[str] | None) -> str:
        given = {tag: content for tag, content in material.items() if content is not None}
        blocks = [tagged(tag, data.strip() if isinstance(data, str) else data) for tag, data in given.items()]
        return "\n\n".join([self.prompts[step].text, *blocks])
