"""The JSON schema of a class, as requests send it, and values of it that differ in nothing that matters.

Schemas follow OpenAI's strict structured outputs: every property is required and no other is allowed. They are sent
without references, which many servers reject.
"""

import json
from functools import lru_cache
from typing import Any, get_origin

from pydantic import BaseModel

_BY_NAME = ("properties", "$defs")  # keywords whose keys are names chosen by the user, perhaps "default"


@lru_cache(maxsize=256)
def strict_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a class with every property required, no other allowed and no defaults. The id of a
    request depends on it."""

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
def sent_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """Return [`strict_schema`] with its definitions put in place of the references to them. That of a class which
    contains itself keeps its references."""
    whole = strict_schema(schema)
    definitions = whole.get("$defs", {})

    def inlined(node: Any, within: tuple[str, ...] = ()) -> Any:
        if isinstance(node, list):
            return [inlined(item, within) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(reference := node.get("$ref"), str):
            name = reference.removeprefix("#/$defs/")
            if name in within:
                raise RecursionError
            rest = {key: value for key, value in node.items() if key != "$ref"}
            return inlined(definitions[name], (*within, name)) | rest
        return {key: inlined(value, within) for key, value in node.items()}

    try:
        return inlined({key: value for key, value in whole.items() if key != "$defs"})
    except RecursionError:
        return whole


@lru_cache(maxsize=256)
def schema_prompt(schema: type[BaseModel]) -> str:
    """Return the instruction that is added to a prompt for a server without structured outputs."""
    text = json.dumps(sent_schema(schema))
    return (
        "Answer with one JSON value that fits this JSON schema and with nothing else."
        f'\n<schema name="{schema.__name__}">{text}</schema>'
    )


def in_its_object(value: Any, schema: type[BaseModel]) -> Any:
    """Put a bare list into the object that was asked for, where that has one property, a list."""
    if isinstance(value, list) and len(schema.model_fields) == 1:
        ((name, field),) = schema.model_fields.items()
        if get_origin(field.annotation) is list:
            return {name: value}
    return value


def plain_word(value: Any) -> Any:
    """Normalise a word before a schema checks it: " Add." to "add", and JSON's true to "yes"."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value.strip().strip("\"'*`.!").lower() if isinstance(value, str) else value
