"""Read the completion of a chat server: what kind of answer it is, its value, and the tokens that it counts.

Nothing of it is trusted: a part that is missing, of another type or out of range is an outcome, never an error of
Python. Servers without structured outputs wrap JSON in prose and code fences, or leave a trailing comma in a list.
These are repaired; an answer that still does not fit the schema is malformed, and so is one of which it cannot be said
whether the model stands by it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

from pydantic import BaseModel, ValidationError

from contextcir.chat.exchange import Outcome
from contextcir.chat.json_text import MAX_CHARACTERS, Found, after_reasoning, json_values, without_trailing_commas
from contextcir.chat.schemas import in_its_object

MAX_TOKENS = 2_000_000  # more than any model reads or writes at once: a server that counts more is not believed
MAX_NAME = 200  # characters of a model's name

_CUT = {"length", "max_tokens", "max_output_tokens", "model_length"}
_FILTERED = {"content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii"}
_REASONING = ("reasoning_content", "reasoning", "thinking")  # fields of a message beside its content
_EXAMPLE = re.compile(r"(?:\bexamples?\b|\be\.g\.|\bfor instance\b)[^.!?]*$", re.IGNORECASE)
_LEAD = 80  # characters before JSON that may say that it is an example


class Tokens(NamedTuple):
    """The tokens of a prompt and of its answer."""

    prompt: int
    answer: int


def read_completion(payload: Any, schema: type[BaseModel] | None) -> Outcome:
    """
    Read a chat completion.

    Args:
        payload (`dict`): The JSON of a response with status 200.
        schema (`type[pydantic.BaseModel]`, *optional*): The schema of the answer; free text by default.

    Returns:
        [`~contextcir.chat.exchange.Outcome`]: Without costs; `model` is empty if the response names none, and
        `doubtful` says that its count of tokens cannot be believed.

    Raises:
        ValueError: The payload is not a chat completion.
    """
    choices = payload.get("choices") if isinstance(payload, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping) or not ("message" in choice or "finish_reason" in choice):
        raise ValueError(f"not a chat completion: {payload}")
    message = choice.get("message")
    message = message if isinstance(message, Mapping) else {}
    text, refusal = _content(message.get("content"))
    refusal = _text(message.get("refusal")) or refusal
    kind, value, error = _read_answer(text, refusal, str(choice.get("finish_reason")).lower(), message, schema)
    tokens = read_usage(payload.get("usage"), text)
    model = payload.get("model")
    return Outcome(
        kind,
        value,
        text,
        error,
        model[:MAX_NAME] if isinstance(model, str) else "",
        *(tokens or (0, 0)),
        doubtful=tokens is None,
    )


def read_usage(usage: Any, answer: str) -> Tokens | None:
    """
    Read the tokens that a server counts; `None` if they cannot be believed: missing, no whole numbers, negative,
    beyond all models, or none although something was read or written. Tokens that are only in the total, as some
    servers count reasoning, are tokens of the answer.
    """
    if not isinstance(usage, Mapping):
        return None
    prompt, written, total = (usage.get(f"{name}_tokens") for name in ("prompt", "completion", "total"))
    if not (_is_count(prompt) and _is_count(written) and prompt and (written or not answer)):
        return None
    return Tokens(prompt, max(written, total - prompt) if _is_count(total) else written)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_TOKENS  # not bool, which is an int


def _text(value: Any) -> str:
    """Return a text as it is, and any other value but nothing as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) if value else ""


def _content(content: Any) -> tuple[str, str]:
    """Return the text and the refusal of a content: a text, a list of parts, or the answer as a JSON value."""
    if not (isinstance(content, list) and all(isinstance(part, Mapping) and "type" in part for part in content)):
        return _text(content), ""
    texts = [_text(part.get("text")) for part in content if part["type"] in ("text", "output_text")]
    return "".join(texts), " ".join(_text(part.get("refusal")) for part in content if part["type"] == "refusal")


def _read_answer(
    text: str, refusal: str, finish: str, message: Mapping[str, Any], schema: type[BaseModel] | None
) -> tuple[str, BaseModel | str | None, str]:
    """Return the kind, the value and the error."""
    thoughts = "" if text.strip() else next((name for name in _REASONING if message.get(name)), "")
    only = f": the model wrote nothing but {thoughts}. Raise max_tokens, or turn its reasoning off" if thoughts else ""
    if refusal:
        return "refused", None, refusal
    if finish in _FILTERED:
        return "filtered", None, "the server's content filter ended the answer"
    if finish in _CUT:
        return "cut", None, f"the answer was cut off at its maximum number of tokens{only}"
    if not text.strip():
        return "malformed", None, f"the answer is empty{only}"
    try:
        return "answered", parse_answer(text, schema) if schema else after_reasoning(text), ""
    except ValueError as problem:
        return "malformed", None, str(problem)


def parse_answer(text: str, schema: type[BaseModel]) -> BaseModel:
    """
    Find an instance of `schema` in a text: the last complete one after the reasoning that is no example.

    Raises:
        ValueError: No part of the text fits, or an answer that does not fit follows; the message says why.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"expected {schema.__name__}, got {len(text):,} characters, more than {MAX_CHARACTERS:,}")
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        problem = _first_problem(error)
    text = after_reasoning(text)
    for candidate in (text, without_trailing_commas(text)):
        last: Found | None = None
        before = 0
        for found in json_values(candidate):
            lead, before = candidate[max(before, found.start - _LEAD) : found.start], found.end
            if _EXAMPLE.search(lead):
                problem = "an example"
                continue
            try:
                value = schema.model_validate(in_its_object(found.value, schema))
                last = found._replace(value=value)
            except ValidationError as error:
                problem = _first_problem(error)
        if last and _begins_another(candidate[last.end :], schema):
            problem = "an answer and the beginning of another"
        elif last:
            return last.value
    raise ValueError(f"expected {schema.__name__}, got {problem}")


def _begins_another(rest: str, schema: type[BaseModel]) -> bool:
    """Return whether an answer begins in a text that holds no whole one, outside of examples."""
    names = "|".join(map(re.escape, schema.model_fields))
    starts = (match.start() for match in re.finditer(rf'\{{\s{{0,100}}"(?:{names})"\s{{0,100}}:', rest))
    return any(not _EXAMPLE.search(rest[max(0, start - _LEAD) : start]) for start in starts)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg']}" if where else problem["msg"]
