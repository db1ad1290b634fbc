"""What a chat server is sent, what its responses mean, and when a run must stop."""

import asyncio
import base64
import json
import logging
import socket
import traceback

import pytest
from PIL import Image

from contextcir.chat.exchange import OUTCOMES, ChatRequest, ChatStop, Outcome
from contextcir.chat.plain_text import MAX_PRINTED
from contextcir.chat.prices import FREE
from contextcir.chat.server import ChatServer
from contextcir.data.images import ImageError, encode_image
from tests.chat.conftest import COST, PRICE, Things, complete, question, server_at
from tests.fake_chat_server import Reply, completion, error, user_text

KEY = "sk-proj-very-secret-0123456789"
PICTURE = encode_image(Image.linear_gradient("L").convert("RGB"))
OTHER = encode_image(Image.new("RGB", (9, 9), "red"))


# --- a request -------------------------------------------------------------------------------------------------------


def test_a_text_is_answered_with_tokens_and_cost(fake):
    outcome = complete(fake, question("hello", system="Be brief."))
    assert outcome == Outcome(
        "answered", "echo hello", "echo hello", "", "fake", 10, 5, usd=(10 * 1.0 + 5 * 2.0) / 1e6
    )
    (body,) = fake.bodies
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    assert "temperature" not in body and "response_format" not in body


def test_parameters_and_schema_are_sent(fake):
    fake.answer = lambda body: completion('{"things": ["a"], "count": null}')
    outcome = complete(fake, question(schema=Things), temperature=0.0, max_tokens=77)
    assert outcome.value == Things(things=["a"])
    (body,) = fake.bodies
    assert body["temperature"] == 0.0
    assert body["max_tokens"] == 77 and "max_completion_tokens" not in body
    sent = body["response_format"]["json_schema"]
    assert sent["name"] == "Things" and sent["strict"] is True
    assert sent["schema"]["required"] == ["things", "count"]  # a default does not make it optional
    assert "schema" not in user_text(body)


def test_openai_gets_the_new_name_of_the_limit():
    body = ChatServer("gpt-4o", price=PRICE).body(question())
    assert body["max_completion_tokens"] == 2048 and "max_tokens" not in body


def test_an_environment_variable_does_not_change_the_address_of_openai(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert str(ChatServer("gpt-4o", price=PRICE).client.base_url) == "https://api.openai.com/v1/"


def test_images_are_sent_before_the_text_in_order(fake):
    complete(fake, question("look", images=(PICTURE, {"bytes": OTHER, "path": None})))
    *images, text = fake.bodies[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "look"}
    prefix = "data:image/png;base64,"
    assert [base64.b64decode(image["image_url"]["url"].removeprefix(prefix)) for image in images] == [PICTURE, OTHER]


def test_nothing_is_sent_for_an_unusable_image(fake, tmp_path):
    for image in (tmp_path / "gone.png", PICTURE[:100], "http://example.com/a.png"):
        outcome = complete(fake, question(images=(image,)))
        assert outcome.kind == "failed" and outcome.usd == 0
    assert "http://example.com/a.png" in outcome.error
    assert not fake.bodies


# --- the id ----------------------------------------------------------------------------------------------------------


def test_the_id_depends_on_everything_that_changes_the_answer(fake):
    base = {"images": (PICTURE,), "schema": Things, "system": "s"}
    changes = [
        {},
        {"prompt": "other"},
        {"system": "t"},
        {"schema": None},
        {"images": (PICTURE, PICTURE)},
        {"images": (OTHER,)},
        {"images": (PICTURE, OTHER)},
        {"images": (OTHER, PICTURE)},
        {"attempt": 1},
    ]
    server = server_at(fake)
    ids = [server.request_id(question(**base | change)) for change in changes]
    for options in ({"temperature": 0.0}, {"max_tokens": 5}, {"max_image_side": 64}):
        ids.append(server_at(fake, **options).request_id(question(**base)))
    ids.append(ChatServer("other", fake.url, price=PRICE).request_id(question(**base)))
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 64 for one in ids)


def test_the_id_does_not_depend_on_file_name_role_or_server(fake, tmp_path):
    (tmp_path / "a.png").write_bytes(PICTURE)
    (tmp_path / "b.png").write_bytes(PICTURE)
    requests = [
        ChatRequest("one", "p", (tmp_path / "a.png",), Things),
        ChatRequest("two", "p", (str(tmp_path / "b.png"),), Things),
        ChatRequest("two", "p", (PICTURE,), Things),
        ChatRequest("two", "p", ({"bytes": None, "path": str(tmp_path / "a.png")},), Things),
    ]
    ids = {server_at(fake).request_id(request) for request in requests}
    elsewhere = ChatServer("fake", "http://elsewhere:1/v1", price=FREE)
    elsewhere._schema_refused = True  # sends schemas in the prompt from now on
    ids.add(elsewhere.request_id(requests[0]))
    assert len(ids) == 1


def test_an_image_that_cannot_be_read_has_no_id(fake, tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png"):
        server_at(fake).request_id(question(images=(tmp_path / "gone.png",)))


# --- outcomes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (completion(None, refusal="I must not."), "refused", "I must not."),
        (completion("half", finish="content_filter"), "filtered", "filter"),
        (completion('{"things": ["a"', finish="length"), "cut", "cut"),
        (completion('{"things": 3}'), "malformed", "things"),
        (completion("no JSON at all"), "malformed", "Things"),
        (completion(""), "malformed", "empty"),
        (error(400, "bad words", code="content_filter"), "filtered", "bad words"),
        (error(400, "too many pixels"), "failed", "too many pixels"),
        (error(500, "broken"), "failed", "broken"),
        (Reply(200, "hello"), "failed", "hello"),
        (Reply(200, {"choices": []}), "failed", "{'choices': []}"),
        (Reply(200, {"error": {"message": "upstream is gone"}}), "failed", "upstream is gone"),
        (Reply(400, "<html>no</html>"), "failed", "400"),
    ],
)
def test_every_response_has_a_kind(fake, reply, kind, message):
    fake.answer = lambda body: reply
    outcome = complete(fake, question(schema=Things), max_retries=0)
    assert outcome.kind == kind and kind in OUTCOMES
    assert message in outcome.error
    assert outcome.value is None


def test_a_response_without_token_counts_costs_the_bound(fake):
    fake.answer = lambda body: completion("fine", usage=None)
    outcome = complete(fake, question())
    assert outcome.usd == server_at(fake).estimate(question()) > 0


def test_long_errors_are_cut(fake):
    fake.answer = lambda body: error(400, "x" * 10_000)
    assert len(complete(fake, question()).error) == MAX_PRINTED


# --- schemas in the prompt -------------------------------------------------------------------------------------------


def without_schemas(body):
    if "response_format" in body:
        return error(400, "response_format of type json_schema is not supported")
    return completion('{"things": ["a"]}')


def test_a_rejected_schema_is_sent_in_the_prompt_from_then_on(fake):
    fake.answer = without_schemas

    async def twice():
        async with server_at(fake) as server:
            return [await server.complete(question(prompt, schema=Things)) for prompt in ("one", "two")]

    assert [outcome.value for outcome in asyncio.run(twice())] == [Things(things=["a"])] * 2
    assert ["response_format" in body for body in fake.bodies] == [True, False, False]
    text = user_text(fake.bodies[1])
    assert text.startswith("one\n\n") and '<schema name="Things">{"' in text and text.endswith("}</schema>")


def test_concurrent_requests_survive_a_rejected_schema(fake):
    fake.answer = without_schemas

    async def many():
        async with server_at(fake) as server:
            return await asyncio.gather(*[server.complete(question(str(n), schema=Things)) for n in range(5)])

    assert {outcome.kind for outcome in asyncio.run(many())} == {"answered"}


def test_other_errors_do_not_move_the_schema(fake):
    fake.answer = lambda body: error(400, "this image is too large")
    assert complete(fake, question(schema=Things)).kind == "failed"
    assert len(fake.bodies) == 1


def test_a_second_attempt_sends_the_schema_in_both_places(fake):
    fake.answer = lambda body: completion('{"things": []}')
    complete(fake, question(schema=Things, attempt=1))
    assert "response_format" in fake.bodies[0] and "<schema name=" in user_text(fake.bodies[0])


# --- stops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [
        (error(401, "Incorrect API key provided"), "key", "Incorrect API key"),
        (error(403, "not for you"), "key", "not for you"),
        (error(404, "unknown", code="model_not_found"), "model", "'fake'.*unknown"),
        (error(429, "You exceeded your quota", code="insufficient_quota"), "quota", "You exceeded"),
        (error(402, "pay first"), "quota", "pay first"),
        (error(400, "hard limit", code="billing_hard_limit_reached"), "quota", "hard limit"),
    ],
)
def test_errors_that_affect_every_request_stop_without_a_retry(fake, fault, reason, message):
    fake.answer = lambda body: fault
    with pytest.raises(ChatStop, match=message) as caught:
        complete(fake, question(), max_retries=3)
    assert caught.value.reason == reason and str(fault.status) in str(caught.value)
    assert len(fake.bodies) == 1


def test_a_server_that_is_not_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def once():
        async with ChatServer("m", f"http://user:pw@127.0.0.1:{port}/v1", price=FREE, max_retries=0) as server:
            await server.complete(question())

    with pytest.raises(ChatStop, match=f"http://127.0.0.1:{port}/v1") as caught:
        asyncio.run(once())
    assert caught.value.reason == "unreachable"
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("answered", ["fake", "fake-2024-08-06", "fake-20240806", "fake-0806", None])
def test_the_requested_model_may_have_a_date(fake, answered):
    fake.answer = lambda body: completion(model=answered)
    assert complete(fake, question()).kind == "answered"


@pytest.mark.parametrize("answered", ["fake-mini", "another", "fak", "fake-mini-2024-08-06", "my-fake"])
def test_another_model_stops_the_run_and_was_charged(fake, answered):
    fake.answer = lambda body: completion(model=answered)
    with pytest.raises(ChatStop, match=f"'fake'.*'{answered}'") as caught:
        complete(fake, question())
    assert caught.value.reason == "model"
    assert caught.value.usd == pytest.approx(COST)


# --- the key ---------------------------------------------------------------------------------------------------------


def test_the_key_comes_from_the_variable_or_a_file(fake, tmp_path, monkeypatch):
    complete(fake, question())
    assert fake.keys == {"Bearer none"}
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    complete(fake, question())
    (tmp_path / "key").write_text("another\n")
    complete(fake, question(), key_file=tmp_path / "key")
    assert fake.keys == {"Bearer none", f"Bearer {KEY}", "Bearer another"}


def test_a_missing_key_stops_at_the_first_request(tmp_path, fake):
    server = ChatServer("gpt-4o", price=PRICE)
    assert server.estimate(question()) > 0 and server.body(question())  # a dry run needs no key
    with pytest.raises(ChatStop, match="OPENAI_API_KEY") as caught:
        asyncio.run(server.complete(question()))
    assert caught.value.reason == "key"
    (tmp_path / "empty").write_text("\n")
    for name in ("gone", "empty"):
        with pytest.raises(ChatStop, match=name) as caught:
            server_at(fake, key_file=tmp_path / name)
        assert caught.value.reason == "key"


def test_the_key_appears_nowhere(fake, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    shown = []
    for reply in [
        error(400, f"your key {KEY} and sk-other***5678, Bearer abc"),
        Reply(200, f"odd {KEY}"),
        completion(None, refusal=f"no, {KEY}"),
    ]:
        fake.answer = lambda body, reply=reply: reply
        shown.append(complete(fake, question(), max_retries=0).error)
    for status in (401, 404):
        fake.answer = lambda body, status=status: error(status, f"wrong: {KEY}")
        with pytest.raises(ChatStop) as caught:
            complete(fake, question())
        shown.append("".join(traceback.format_exception(caught.value)))
    server = server_at(fake)
    shown += [repr(server), str(server.settings), server.request_id(question()), json.dumps(server.body(question()))]
    assert shown[0].count("[key]") == 3
    assert not [text for text in [*shown, caplog.text] if KEY in text or "sk-" in text]


# --- estimates and settings ------------------------------------------------------------------------------------------


def test_the_estimate_is_an_upper_bound(fake):
    server = server_at(fake, max_tokens=100)
    plain = server.estimate(question("hello"))
    assert plain == pytest.approx((len("hello") + 128) * 1e-6 + 100 * 2e-6)
    assert server.estimate(question("hellö")) == pytest.approx(plain + 1e-6)  # bytes, not characters
    assert server.estimate(question("hello", images=(PICTURE,) * 2)) == pytest.approx(plain + 200e-6)
    with_schema = question("hello", schema=Things, attempt=1)
    text = json.dumps(server.body(with_schema)["response_format"]) + user_text(server.body(with_schema))
    assert server.estimate(with_schema) >= (len(text) + 100 * 2) * 1e-6


def test_settings_distinguish_openai_from_other_servers(fake):
    assert ChatServer("m", price=PRICE).settings["service"] != server_at(fake).settings["service"]
    assert server_at(fake).settings == ChatServer("fake", "http://other/v1", price=FREE).settings
