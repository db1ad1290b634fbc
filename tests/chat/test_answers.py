"""Answers are read from chat completions, and repaired only if nothing has to be guessed."""

import pytest
from pydantic import BaseModel

from contextcir.chat.answers import parse_answer, read_completion
from contextcir.chat.schemas import strict_schema
from tests.chat.conftest import Things
from tests.fake_chat_server import completion


@pytest.mark.parametrize(
    "text",
    [
        '{"things": ["a, ]", "b"]}',
        '```json\n{"things": ["a, ]", "b"]}\n```',
        'Of course! Here you are: {"things": ["a, ]", "b"]}. Anything else?',
        '{"things": ["a, ]", "b",],}',
        '<think>Perhaps {"things": ["x"]}? No.</think>\n{"things": ["a, ]", "b"]}',
        'The "set" {x} is: {"things": ["a, ]", "b"]}',
    ],
)
def test_json_is_repaired_if_nothing_has_to_be_guessed(text):
    outcome = read_completion(completion(text).body, Things)
    assert (outcome.kind, outcome.value, outcome.text) == ("answered", Things(things=["a, ]", "b"]), text)


@pytest.mark.parametrize("text", ['{"things": ["a"', '{"things": ["a" "b"]}', '["a"]', "{" * 5000, '{"thing": []}'])
def test_answers_that_need_a_guess_are_malformed(text):
    outcome = read_completion(completion(text).body, Things)
    assert (outcome.kind, outcome.value) == ("malformed", None)
    with pytest.raises(ValueError, match="Things"):
        parse_answer(text, Things)


def test_a_completion_without_a_schema_is_text():
    outcome = read_completion(completion(" fine ", usage=None).body, None)
    assert (outcome.kind, outcome.value, outcome.prompt_tokens) == ("answered", " fine ", 0)


@pytest.mark.parametrize("payload", ["<html>", {"choices": []}, {"error": {"message": "gone"}}, None])
def test_other_payloads_are_no_completions(payload):
    with pytest.raises(ValueError, match=str(payload)[:20].replace("[", r"\[")):
        read_completion(payload, None)


def test_strict_schemas_require_every_property_and_keep_names():
    class Odd(BaseModel):
        default: int = 3  # a name, not the keyword
        inner: Things | None = None

    schema = strict_schema(Odd)
    assert schema["required"] == ["default", "inner"] and schema["additionalProperties"] is False
    assert "default" not in schema["properties"]["default"]
    assert schema["$defs"]["Things"]["required"] == ["things", "count"]
