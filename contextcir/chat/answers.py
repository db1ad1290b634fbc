"""What a chat server's response holds: a class as the schema of an answer, and the answer as an instance of it.

Structured outputs in OpenAI's strict sense: every property is required and no other is allowed. Servers that cannot
be held to a schema wrap JSON in prose and code fences or leave a comma at the end of a list; that much is repaired,
and nothing is ever guessed: whatever does not fit the schema then is malformed.
"""

import json
import re
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

# A string, which is kept, or a comma before a closing bracket
_TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', re.DOTALL)
_START = re.compile(r"[{\[]")
_NAMED = ("properties", "$defs")


@lru_cache(maxsize=256)
def strict_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a class with every property required, no other allowed and no defaults."""

    def strict(node):
        if isinstance(node, list):
            return [strict(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {
            key: named(value) if key in _NAMED else strict(value) for key, value in node.items() if key != "default"
        }
        if "properties" in node:
            node |= {"required": list(node["properties"]), "additionalProperties": False}
        return node

    def named(nodes):  # whose keys are names of the user's, "default" among them perhaps
        return {name: strict(node) for name, node in nodes.items()}

    return strict(schema.model_json_schema())


@lru_cache(maxsize=256)
def schema_prompt(schema: type[BaseModel]) -> str:
    """What a server without schemas is told instead."""
    text = json.dumps(strict_schema(schema))
    return (
        "Answer with one JSON value that fits this JSON schema and with nothing else."
        f'\n<schema name="{schema.__name__}">{text}</schema>'
    )


def read_completion(payload: dict[str, Any], schema: type[BaseModel] | None) -> dict[str, Any]:
    """
    What a chat completion tells of.

    Args:
        payload (`dict`): The JSON of a response with status 200.
        schema (`type[pydantic.BaseModel]`, *optional*): What the answer must fit; free text by default.

    Returns:
        `dict`: `kind`, `value`, `text`, `error`, `model`, `prompt_tokens` and `completion_tokens` of an outcome.

    Raises:
        ValueError: It is not a chat completion.
    """
    try:
        choice = payload["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content") or "", message.get("refusal")
        usage = payload.get("usage") or {}
        tokens = {name: int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
        kind, value, error = _read_choice(text, refusal, finish, schema)
    except (TypeError, KeyError, IndexError, AttributeError) as problem:
        raise ValueError(f"not a chat completion ({type(problem).__name__}): {payload}") from None
    return {
        "kind": kind,
        "value": value,
        "text": text,
        "error": error,
        "model": str(payload.get("model") or ""),
        **tokens,
    }


def _read_choice(
    text: str, refusal: str | None, finish: str | None, schema
) -> tuple[str, BaseModel | str | None, str]:
    """Kind, value and error."""
    if refusal:
        return "refused", None, refusal
    if finish == "content_filter":
        return "filtered", None, "the server's content filter ended the answer"
    if finish == "length":
        return "cut", None, "the answer was cut at the most tokens that it may have"
    if not text.strip():
        return "malformed", None, "the answer is empty"
    try:
        return "answered", parse_answer(text, schema) if schema else text, ""
    except ValueError as problem:
        return "malformed", None, str(problem)


def parse_answer(text: str, schema: type[BaseModel]) -> BaseModel:
    """
    The instance of `schema` that a text holds; of several, the last, which follows what a model thinks aloud.

    Raises:
        ValueError: None of the text fits; says why.
    """
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        problem = _first_problem(error)
    for attempt in (text, _TRAILING_COMMA.sub(lambda match: match[1] or "", text)):
        found = None
        for value in _json_values(attempt):
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


def _json_values(text: str):
    """All outermost JSON objects and lists of a text, one after the other."""
    decoder = json.JSONDecoder()
    position = 0
    while match := _START.search(text, position):
        try:
            value, position = decoder.raw_decode(text, match.start())
            yield value
        except (ValueError, RecursionError):
            position = match.end()
