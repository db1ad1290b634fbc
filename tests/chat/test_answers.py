"""Answers are read from chat completions, and repaired only if nothing has to be guessed."""

import json
import time

import pytest
from pydantic import BaseModel

from contextcir.captions.schemas import Differences, ReferenceObjects
from contextcir.chat.answers import parse_answer, read_completion
from contextcir.chat.json_text import MAX_CHARACTERS, after_reasoning, json_values, without_trailing_commas
from contextcir.chat.schemas import plain_word, schema_prompt, sent_schema, strict_schema
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


# --- reasoning -------------------------------------------------------------------------------------------------------


@pytest.mark.fault("C30", "an answer that the model takes back is not accepted: its last word counts, or none")
@pytest.mark.parametrize(
    "text",
    [
        '<think>{"things": ["x"]}? No.</think>{"things": ["a"]}',
        '{"things": ["x"]}, or rather not.</think>\n{"things": ["a"]}',  # begins to think in the prompt
        '<think>one</think>{"things": ["x"]}<think>wrong</think>{"things": ["a"]}',
        '[THINK]{"things": ["x"]}[/THINK]{"things": ["a"]}',
        '<|channel|>analysis<|message|>{"things": ["x"]}<|end|><|channel|>final<|message|>{"things": ["a"]}',
        'Draft: {"things": ["x"]}. Better: {"things": ["a"]}',
        '{"things": ["a"]} For example, {"things": ["x"]} would be wrong.',
        'Example:\n```json\n{"things": ["x"]}\n```\nThe answer is {"things": ["a"]}',
    ],
)
def test_the_last_word_counts(text):
    assert parse_answer(text, Things) == Things(things=["a"])


@pytest.mark.fault("C30", "an answer that the model takes back is not accepted: its last word counts, or none")
@pytest.mark.parametrize(
    "text",
    [
        '<think>Perhaps {"things": ["x"]}',
        '{"things": ["x"]}<think>or not',
        '<think>{"things": ["x"]}</think> I cannot say.',
        '{"things": ["x"]} No, it is {"things": ["a", ',
        '{"things": ["x"]} No, it is {"things": 3}',
        'I cannot see it. An example of an answer is {"things": ["x"]}',
    ],
)
@pytest.mark.parametrize("wrap", [str, "```json\n{}\n```".format])
def test_an_answer_that_is_taken_back_is_malformed(text, wrap):
    outcome = read_completion(completion(wrap(text)).body, Things)
    assert (outcome.kind, outcome.value) == ("malformed", None)


def test_tags_inside_of_an_answer_are_its_content():
    assert parse_answer('{"things": ["a sign: <think>"]}', Things).things == ["a sign: <think>"]


@pytest.mark.fault("C31", "reasoning is cut from free text, and reasoning without an answer is named")
@pytest.mark.parametrize(("finish", "kind"), [("stop", "malformed"), ("length", "cut")])
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_without_an_answer_is_named(finish, kind, name):
    payload = completion("", finish=finish).body
    payload["choices"][0]["message"][name] = "Let me see."
    outcome = read_completion(payload, Things)
    assert outcome.kind == kind and name in outcome.error and "max_tokens" in outcome.error
    assert read_completion(completion("<think>hm</think> fine").body, None).value == " fine"
    assert read_completion(completion("<think>hm").body, None).kind == "malformed"


# --- leniency --------------------------------------------------------------------------------------------------------


@pytest.mark.fault("C32", "raw newlines, a bare list, and words in capitals are read as what they mean")
def test_lenient_where_it_costs_nothing():
    assert parse_answer('{"things": ["one\ntwo\t"]}', Things).things == ["one\ntwo\t"]
    objects = [{"name": "cat", "descriptors": ["red"]}]
    for text in (json.dumps(objects), f"```json\n{json.dumps(objects)}\n```", json.dumps({"objects": objects})):
        assert parse_answer(text, ReferenceObjects).objects[0].name == "cat"
    for word in ("Add", "ADD", " add.", '"add"', "**Add**"):
        change = {"operation": word, "text": "add a cat"}  # objects that are null may be missing
        assert parse_answer(json.dumps([change]), Differences).differences[0].operation == "add"


def test_leniency_does_not_guess():
    for text in ('{"objects": {"name": "cat"}}', '["cat"]', '{"objects": null}'):
        with pytest.raises(ValueError, match="ReferenceObjects"):
            parse_answer(text, ReferenceObjects)
    with pytest.raises(ValueError, match="operation"):
        parse_answer('{"differences": [{"operation": "addition", "text": "x"}]}', Differences)
    assert [plain_word(value) for value in (True, " Yes! ", 3, None)] == ["yes", "yes", 3, None]


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        ([{"type": "text", "text": "one "}, {"type": "text", "text": "two"}], "answered", "one two"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "two"}], "answered", "two"),
        ([{"type": "refusal", "refusal": "no"}], "refused", ""),
        ({"things": ["a"]}, "answered", '{"things": ["a"]}'),
        (7, "answered", "7"),
        ([], "malformed", ""),
    ],
)
def test_contents_of_other_forms(content, kind, text):
    outcome = read_completion(completion(content).body, None)
    assert (outcome.kind, outcome.text) == (kind, text)


# --- time ------------------------------------------------------------------------------------------------------------

HARD = {
    "quotes": '{"name": "' + '\\"' * MAX_CHARACTERS,
    "brackets": "[" * MAX_CHARACTERS,
    "braces": "{" * MAX_CHARACTERS,
    "keys": '{"' * MAX_CHARACTERS,
    "starts": "[9" * MAX_CHARACTERS,
    "open": '{"a": "' * MAX_CHARACTERS,
    "nested": ("[" * 900 + "1 ") * MAX_CHARACTERS,
    "commas": ("," + " " * 99) * MAX_CHARACTERS,
    "tags": "<think>" * MAX_CHARACTERS,
    "backslash": '"' + '\\"' * (MAX_CHARACTERS // 2 - 10) + "\\",
}


@pytest.mark.fault("C33", "the repair of an answer takes time in proportion to its length, which is bounded")
@pytest.mark.parametrize("name", HARD)
def test_repair_is_linear(name):
    text = HARD[name][:MAX_CHARACTERS]
    start = time.process_time()
    with pytest.raises(ValueError, match="Things|reasoning"):
        parse_answer(text, Things)
    assert time.process_time() - start < 5  # 0.02 to 1 s; quadratic searches take minutes
    with pytest.raises(ValueError, match="characters"):
        parse_answer(text + "x" * MAX_CHARACTERS, Things)


def test_repairs():
    assert [found.value for found in json_values('a {"x": 1} [2] {y} [[]')] == [{"x": 1}, [2], []]
    assert without_trailing_commas('{"a, }": [1, ], }') == '{"a, }": [1 ] }'
    assert after_reasoning("plain") == "plain"


# --- schemas ---------------------------------------------------------------------------------------------------------


class Tree(BaseModel):
    """A tree."""

    name: str
    inner: list["Tree"]


@pytest.mark.fault("C34", "schemas are sent without references, and the ids of requests stay")
def test_references_are_replaced():
    assert "$ref" in json.dumps(strict_schema(ReferenceObjects))  # the id of requests that were paid depends on it
    sent = sent_schema(ReferenceObjects)
    assert "$ref" not in json.dumps(sent) and "$defs" not in sent and "$ref" not in schema_prompt(ReferenceObjects)
    assert sent["properties"]["objects"]["items"]["required"] == ["name", "descriptors"]
    assert sent_schema(Tree) == strict_schema(Tree)  # contains itself
    assert sent_schema(Things) == strict_schema(Things)
