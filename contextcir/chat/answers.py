"""Parse the response of a chat server: the JSON schema of a class, and the answer as an instance of it.

Schemas follow OpenAI's strict structured outputs: every property is required and no other is allowed. Servers without
structured outputs wrap JSON in prose and code fences, or leave a trailing comma in a list. These are repaired; an
answer that still does not fit the schema is malformed.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from contextcir.chat.exchange import Outcome

# A string, which is kept, or a comma before a closing bracket
_TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', re.DOTALL)
_START = re.compile(r"[{\[]")
_BY_NAME = ("properties", "$defs")  # keywords whose keys are names chosen by the user, perhaps "default"


@lru_cache(maxsize=256)
def strict_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a class with every property required, no other allowed and no defaults."""

    def strict(node: Any) -> Any:
        if isinstance(node, list):
            return [strict(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {
            key: {name: strict(child) for name, child in value.items()} if key in _BY_NAME else strict(value)
            for key, value in node.items()
            if key != "default"
        }
        if "properties" in node:
            node |= {"required": list(node["properties"]), "additionalProperties": False}
        return node

    return strict(schema.model_json_schema())


@lru_cache(maxsize=256)
def schema_prompt(schema: type[BaseModel]) -> str:
    """Return the instruction that is added to a prompt for a server without structured outputs."""
    text = json.dumps(strict_schema(schema))
    return (
        "Answer with one JSON value that fits this JSON schema and with nothing else."
        f'\n<schema name="{schema.__name__}">{text}</schema>'
    )


def read_completion(payload: Any, schema: type[BaseModel] | None) -> Outcome:
    """
    Read a chat completion.

    Args:
        payload (`dict`): The JSON of a response with status 200.
        schema (`type[pydantic.BaseModel]`, *optional*): The schema of the answer; free text by default.

    Returns:
        [`~contextcir.chat.exchange.Outcome`]: Without costs; `model` is empty if the response names none.

    Raises:
        ValueError: The payload is not a chat completion.
    """
    try:
        choice = payload["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content") or "", message.get("refusal")
        usage = payload.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        kind, value, error = _read_choice(text, refusal, finish, schema)
    except (TypeError, KeyError, IndexError, AttributeError) as problem:
        raise ValueError(f"not a chat completion ({type(problem).__name__}): {payload}") from None
    return Outcome(kind, value, text, error, str(payload.get("model") or ""), *tokens)


def _read_choice(
    text: str, refusal: str | None, finish: str | None, schema: type[BaseModel] | None
) -> tuple[str, BaseModel | str | None, str]:
    """Return the kind, the value and the error."""
    if refusal:
        return "refused", None, refusal
    if finish == "content_filter":
        return "filtered", None, "the server's content filter ended the answer"
    if finish == "length":
        return "cut", None, "the answer was cut off at its maximum number of tokens"
    if not text.strip():
        return "malformed", None, "the answer is empty"
    try:
        return "answered", parse_answer(text, schema) if schema else text, ""
    except ValueError as problem:
        return "malformed", None, str(problem)


def parse_answer(text: str, schema: type[BaseModel]) -> BaseModel:
    """
    Find an instance of `schema` in a text. If there are several, return the last: models reason before they answer.

    Raises:
        ValueError: No part of the text fits; the message says why.
    """
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        problem = _first_problem(error)
    for candidate in (text, _TRAILING_COMMA.sub(lambda match: match[1] or "", text)):
        found = None
        for value in _json_values(candidate):
            try:
                found = schema.model_validate(value)
            except ValidationError as error:
                problem = _first_problem(error)
        if found is not None:
            return found
    raise ValueError(f"expected {schema.__name__}, got {problem}")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg']}" if where else problem["msg"]


def _json_values(text: str) -> Iterator[Any]:
    """Yield all outermost JSON objects and lists of a text in their order."""
    decoder = json.JSONDecoder()
    position = 0
    while match := _START.search(text, position):
        try:
            value, position = decoder.raw_decode(text, match.start())
            yield value
        except (ValueError, RecursionError):
            position = match.end()
