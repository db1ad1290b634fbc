"""Every way that a chat server may answer, against one on loopback that does as it is told."""

import asyncio
import base64
import io
import json
import logging
import socket
import time
import traceback

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel

from contextcir.chat.prices import FREE, Price
from contextcir.chat.server import MAX_ERROR, OUTCOMES, ChatRequest, ChatServer, ChatStop
from contextcir.data.images import ImageError, load_image
from tests.fake_chat_server import FakeChatServer, Reply, completion, error, user_text

PRICE = Price(1.0, 2.0, image_tokens=100)
KEY = "sk-proj-very-secret-0123456789"


class Things(BaseModel):
    """A schema."""

    things: list[str]
    count: int | None = None


@pytest.fixture
def fake():
    with FakeChatServer() as server:
        yield server


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def server_at(fake, **options):
    return ChatServer("fake", fake.url, **{"price": PRICE, "max_retries": 1, "timeout": 5.0, **options})


def complete(fake, request, **options):
    async def once():
        async with server_at(fake, **options) as server:
            return await server.complete(request)

    return asyncio.run(once())


def ask(prompt="hello", **options):
    return ChatRequest("a role", prompt, **options)


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def sent_image(body, place=0):
    url = body["messages"][-1]["content"][place]["image_url"]["url"]
    kind, content = url.split(";base64,")
    return kind, base64.b64decode(content)


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
PICTURE = png(Image.fromarray(PIXELS))


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_a_text_comes_back_with_tokens_and_cost(fake):
    outcome = complete(fake, ask("hello", system="Be brief."))
    assert (outcome.kind, outcome.value, outcome.text, outcome.model) == (
        "answered",
        "echo hello",
        "echo hello",
        "fake",
    )
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (10, 5)
    assert outcome.usd == pytest.approx((10 * 1.0 + 5 * 2.0) / 1e6)
    assert outcome.lost_usd == 0
    (body,) = fake.bodies
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]
    assert "temperature" not in body and "response_format" not in body


def test_parameters_and_schema_are_sent(fake):
    fake.answer = lambda body: completion('{"things": ["a"], "count": null}')
    outcome = complete(fake, ask(schema=Things), temperature=0.0, max_tokens=77)
    assert outcome.value == Things(things=["a"])
    (body,) = fake.bodies
    assert body["temperature"] == 0.0
    assert body["max_tokens"] == 77 and "max_completion_tokens" not in body
    sent = body["response_format"]["json_schema"]
    assert sent["name"] == "Things" and sent["strict"] is True
    assert sent["schema"]["required"] == ["things", "count"]  # a default does not make it optional
    assert "schema" not in user_text(body)


def test_openai_itself_gets_the_new_name_of_the_limit():
    body = ChatServer("gpt-4o", price=PRICE).body(ask())
    assert body["max_completion_tokens"] == 2048 and "max_tokens" not in body


def test_a_variable_does_not_move_openai_elsewhere(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert str(ChatServer("gpt-4o", price=PRICE).client.base_url) == "https://api.openai.com/v1/"


def test_images_stand_before_the_text_in_order(fake):
    other = png(Image.new("RGB", (8, 8), "red"))
    complete(fake, ask("look", images=(PICTURE, {"bytes": other, "path": None})))
    (body,) = fake.bodies
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "image_url", "text"]
    assert sent_image(body, 0) == ("data:image/png", PICTURE)
    assert sent_image(body, 1) == ("data:image/png", other)
    assert user_text(body) == "look"


def test_an_unusable_image_fails_and_nothing_is_sent(fake, tmp_path):
    for image in (tmp_path / "gone.png", PICTURE[:100], "http://example.com/a.png"):
        outcome = complete(fake, ask(images=(image,)))
        assert outcome.kind == "failed" and outcome.usd == 0
    assert "is a URL. Download it first" in outcome.error
    assert not fake.bodies


# --- the id ----------------------------------------------------------------------------------------------------------


def test_the_id_depends_on_what_the_answer_depends_on(fake, tmp_path):
    server = server_at(fake)
    base = ask(images=(PICTURE,), schema=Things, system="s")
    changed = [
        ask("other", images=(PICTURE,), schema=Things, system="s"),
        ask(images=(PICTURE,), schema=Things, system="t"),
        ask(images=(PICTURE,), system="s"),
        ask(images=(PICTURE, PICTURE), schema=Things, system="s"),
        ask(images=(png(Image.new("RGB", (9, 9))),), schema=Things, system="s"),
        ask(images=(PICTURE,), schema=Things, system="s", attempt=1),
    ]
    ids = [server.request_id(request) for request in [base, *changed]]
    for options in ({"temperature": 0.0}, {"max_tokens": 5}, {"max_image_side": 64}):
        ids.append(server_at(fake, **options).request_id(base))
    ids.append(ChatServer("other", fake.url, price=PRICE).request_id(base))
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 64 for one in ids)


def test_the_id_does_not_depend_on_name_place_role_or_server(fake, tmp_path):
    (tmp_path / "a.png").write_bytes(PICTURE)
    (tmp_path / "b.png").write_bytes(PICTURE)
    requests = [
        ChatRequest("one", "p", (tmp_path / "a.png",), Things),
        ChatRequest("two", "p", (str(tmp_path / "b.png"),), Things),
        ChatRequest("two", "p", (PICTURE,), Things),
        ChatRequest("two", "p", ({"bytes": None, "path": str(tmp_path / "a.png")},), Things),
    ]
    ids = {server_at(fake).request_id(request) for request in requests}
    ids.add(ChatServer("fake", "http://elsewhere:1/v1", price=FREE, schema_support="prompt").request_id(requests[0]))
    assert len(ids) == 1


def test_the_id_of_two_images_is_not_that_of_them_exchanged(fake):
    other = png(Image.new("RGB", (9, 9)))
    server = server_at(fake)
    assert server.request_id(ask(images=(PICTURE, other))) != server.request_id(ask(images=(other, PICTURE)))


# --- images ----------------------------------------------------------------------------------------------------------


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


PHOTO = Image.fromarray(PIXELS)
AS_THEY_ARE = [
    encoded(PHOTO, "PNG"),
    encoded(PHOTO, "JPEG"),
    encoded(PHOTO, "JPEG", progressive=True),
]
ENCODED_AGAIN = [
    encoded(PHOTO, "JPEG", exif=turned()),
    encoded(PHOTO, "PNG", exif=turned()),
    encoded(PHOTO.convert("CMYK"), "JPEG"),
    encoded(PHOTO.convert("L"), "PNG"),
    encoded(PHOTO.convert("RGBA"), "PNG"),
    encoded(PHOTO.convert("P"), "PNG"),
    encoded(PHOTO, "PNG", transparency=(0, 0, 0)),
    encoded(PHOTO, "WEBP"),
    encoded(PHOTO, "BMP"),
    PHOTO,
    PIXELS,
]


@pytest.mark.parametrize("source", AS_THEY_ARE)
def test_plain_files_are_sent_as_they_are(fake, source):
    assert sent_image(server_at(fake).body(ask(images=(source,))))[1] == source


@pytest.mark.parametrize("source", ENCODED_AGAIN)
def test_other_files_are_sent_as_upright_jpeg(fake, source):
    kind, content = sent_image(server_at(fake).body(ask(images=(source,))))
    assert kind == "data:image/jpeg"
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG" and image.mode == "RGB" and not image.getexif()
        assert image.size == load_image(source).size


@pytest.mark.parametrize("size", [(100, 40), (40, 100)])
def test_large_images_are_scaled_down(fake, size):
    server = server_at(fake, max_image_side=50)
    kind, content = sent_image(server.body(ask(images=(png(Image.new("RGB", size, "green")),))))
    assert kind == "data:image/jpeg"
    assert sorted(Image.open(io.BytesIO(content)).size) == [20, 50]


# --- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
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
        (Reply(200, "<html>hello</html>"), "failed", "not a chat completion"),
        (Reply(200, {"choices": []}), "failed", "not a chat completion"),
        (Reply(200, {"error": {"message": "upstream is gone"}}), "failed", "upstream is gone"),
        (Reply(400, "<html>no</html>"), "failed", "400"),
    ],
)
def test_outcomes_have_names(fake, reply, kind, said):
    fake.answer = lambda body: reply
    outcome = complete(fake, ask(schema=Things), max_retries=0)
    assert outcome.kind == kind and kind in OUTCOMES
    assert said in outcome.error
    assert outcome.value is None


def test_who_counts_no_tokens_is_paid_the_bound(fake):
    fake.answer = lambda body: completion("fine", usage=None)
    outcome = complete(fake, ask())
    assert outcome.usd == server_at(fake).estimate(ask()) > 0


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
def test_json_is_repaired_where_nothing_has_to_be_guessed(fake, text):
    fake.answer = lambda body: completion(text)
    outcome = complete(fake, ask(schema=Things))
    assert outcome.kind == "answered"
    assert outcome.value == Things(things=["a, ]", "b"])
    assert outcome.text == text


@pytest.mark.parametrize("text", ['{"things": ["a"', '{"things": ["a" "b"]}', '["a"]', "{" * 5000, '{"thing": []}'])
def test_what_would_have_to_be_guessed_is_malformed(fake, text):
    fake.answer = lambda body: completion(text)
    assert complete(fake, ask(schema=Things)).kind == "malformed"


# --- retries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [error(429, headers={"Retry-After": "0.01"}), error(500), error(503), error(408)])
def test_passing_faults_are_tried_again_and_cost_nothing(fake, fault):
    fake.faults.append(fault)
    outcome = complete(fake, ask())
    assert outcome.kind == "answered" and outcome.lost_usd == 0
    assert len(fake.bodies) == 2
    assert fake.bodies[0] == fake.bodies[1]


def test_retry_after_is_waited_for(fake):
    times = []

    def answer(body):
        times.append(time.monotonic())
        return error(429, headers={"Retry-After": "0.7"}) if len(times) == 1 else completion()

    fake.answer = answer
    complete(fake, ask())
    assert times[1] - times[0] >= 0.7  # the client's own first pause is at most 0.5 s


def test_responses_are_reported_as_they_come(fake):
    fake.faults.extend([error(429, headers={"Retry-After": "0.01"}), error(500)])
    seen = []

    async def once():
        async with server_at(fake, max_retries=3) as server:
            return await server.complete(ask(), seen.append)

    assert asyncio.run(once()).kind == "answered"
    assert seen == [True, False, False]


def test_a_time_out_may_have_cost_the_bound(fake):
    fake.faults.append(Reply(200, completion().body, delay=1.0))
    outcome = complete(fake, ask(), timeout=0.2)
    assert outcome.kind == "answered"
    assert outcome.lost_usd == server_at(fake).estimate(ask())


def test_time_outs_to_the_end_are_a_failure(fake):
    fake.answer = lambda body: Reply(200, completion().body, delay=0.6)
    outcome = complete(fake, ask(), timeout=0.15, max_retries=1)
    assert outcome.kind == "failed" and "timed out" in outcome.error
    assert outcome.lost_usd == 2 * server_at(fake).estimate(ask())


def test_a_connection_that_breaks_is_no_missing_server(fake):
    fake.answer = lambda body: Reply(200, completion().body, cut=True)
    outcome = complete(fake, ask(), max_retries=1)
    assert outcome.kind == "failed"
    assert outcome.lost_usd == 2 * server_at(fake).estimate(ask())


# --- schemas in the prompt -------------------------------------------------------------------------------------------


def no_schemas(body):
    if "response_format" in body:
        return error(400, "response_format of type json_schema is not supported")
    return completion('{"things": ["a"]}')


def test_a_server_without_schemas_is_found_out_once(fake):
    fake.answer = no_schemas

    async def twice():
        async with server_at(fake) as server:
            return [await server.complete(ask(prompt, schema=Things)) for prompt in ("one", "two")]

    assert [outcome.value for outcome in asyncio.run(twice())] == [Things(things=["a"])] * 2
    assert ["response_format" in body for body in fake.bodies] == [True, False, False]
    text = user_text(fake.bodies[1])
    assert text.startswith("one\n\n") and '<schema name="Things">{"' in text and text.endswith("}</schema>")


def test_many_at_once_find_out_too(fake):
    fake.answer = no_schemas

    async def many():
        async with server_at(fake) as server:
            return await asyncio.gather(*[server.complete(ask(str(n), schema=Things)) for n in range(5)])

    assert {outcome.kind for outcome in asyncio.run(many())} == {"answered"}


def test_a_server_may_be_known_to_have_no_schemas(fake):
    fake.answer = no_schemas
    complete(fake, ask(schema=Things), schema_support="prompt")
    assert len(fake.bodies) == 1


def test_a_fault_that_is_not_about_schemas_does_not_move_them(fake):
    fake.answer = lambda body: error(400, "this image is too large")
    assert complete(fake, ask(schema=Things)).kind == "failed"
    assert len(fake.bodies) == 1


def test_a_second_attempt_spells_the_schema_out(fake):
    fake.answer = lambda body: completion('{"things": []}')
    complete(fake, ask(schema=Things, attempt=1))
    assert "response_format" in fake.bodies[0] and "<schema name=" in user_text(fake.bodies[0])


# --- stops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason", "said"),
    [
        (error(401, "Incorrect API key provided"), "key", "turned down"),
        (error(403, "not for you"), "key", "turned down"),
        (error(404, "The model does not exist", code="model_not_found"), "model", "There is no model 'fake'"),
        (error(429, "You exceeded your quota", code="insufficient_quota"), "quota", "exhausted"),
        (error(402, "pay first"), "quota", "exhausted"),
        (error(400, "hard limit", code="billing_hard_limit_reached"), "quota", "exhausted"),
    ],
)
def test_what_makes_going_on_pointless_stops_at_once(fake, fault, reason, said):
    fake.answer = lambda body: fault
    with pytest.raises(ChatStop, match=said) as caught:
        complete(fake, ask(), max_retries=3)
    assert caught.value.reason == reason
    assert len(fake.bodies) == 1  # not tried again


def test_a_server_that_is_not_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def once():
        async with ChatServer("m", f"http://user:pw@127.0.0.1:{port}/v1", price=FREE, max_retries=0) as server:
            await server.complete(ask())

    with pytest.raises(ChatStop, match=f"no server at http://127.0.0.1:{port}/v1") as caught:
        asyncio.run(once())
    assert caught.value.reason == "unreachable"
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("answered", ["fake", "fake-2024-08-06", "fake-20240806", "fake-0806", None])
def test_the_model_that_was_asked(fake, answered):
    fake.answer = lambda body: completion(model=answered)
    assert complete(fake, ask()).kind == "answered"


@pytest.mark.parametrize("answered", ["fake-mini", "another", "fak", "fake-mini-2024-08-06", "my-fake"])
def test_another_model_is_a_stop_that_has_cost_something(fake, answered):
    fake.answer = lambda body: completion(model=answered)
    with pytest.raises(ChatStop, match=f"Asked 'fake' .* and '{answered}' answered") as caught:
        complete(fake, ask())
    assert caught.value.reason == "model"
    assert caught.value.usd == pytest.approx(20e-6)


# --- the key ---------------------------------------------------------------------------------------------------------


def test_the_key_comes_from_the_variable_or_a_file(fake, tmp_path, monkeypatch):
    complete(fake, ask())
    assert fake.keys == {"Bearer none"}
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    complete(fake, ask())
    (tmp_path / "key").write_text("another\n")
    complete(fake, ask(), key_file=tmp_path / "key")
    assert fake.keys == {"Bearer none", f"Bearer {KEY}", "Bearer another"}


def test_no_key(tmp_path, fake):
    server = ChatServer("gpt-4o", price=PRICE)
    assert server.estimate(ask()) > 0 and server.body(ask())  # a dry run needs none
    with pytest.raises(ChatStop, match="There is no key. Set OPENAI_API_KEY"):
        asyncio.run(server.complete(ask()))
    with pytest.raises(ChatStop, match="cannot be read"):
        server_at(fake, key_file=tmp_path / "gone")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ChatStop, match="does not hold a key"):
        server_at(fake, key_file=tmp_path / "empty")


def test_the_key_shows_nowhere(fake, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    said = []
    for reply in [
        error(400, f"your key {KEY} and sk-other***5678, Bearer abc"),
        Reply(200, f"odd {KEY}"),
        completion(None, refusal=f"no, {KEY}"),
    ]:
        fake.answer = lambda body, reply=reply: reply
        said.append(complete(fake, ask(), max_retries=0).error)
    for status in (401, 404):
        fake.answer = lambda body, status=status: error(status, f"wrong: {KEY}")
        with pytest.raises(ChatStop) as caught:
            complete(fake, ask())
        said.append("".join(traceback.format_exception(caught.value)))
    server = server_at(fake)
    said += [repr(server), str(server.settings), server.request_id(ask()), json.dumps(server.body(ask()))]
    assert said[0].count("[key]") == 3
    assert not [text for text in [*said, caplog.text] if KEY in text or "sk-" in text]


def test_long_errors_are_cut(fake):
    fake.answer = lambda body: error(400, "x" * 10_000)
    assert len(complete(fake, ask()).error) == MAX_ERROR


# --- estimates -------------------------------------------------------------------------------------------------------


def test_the_estimate_is_a_bound_of_what_is_sent(fake):
    server = server_at(fake, max_tokens=100)
    plain = server.estimate(ask("hello"))
    assert plain == pytest.approx((len("hello") + 128) * 1e-6 + 100 * 2e-6)
    assert server.estimate(ask("hellö")) == pytest.approx(plain + 1e-6)  # bytes, not characters
    assert server.estimate(ask("hello", images=(PICTURE,) * 2)) == pytest.approx(plain + 200e-6)
    with_schema = ask("hello", schema=Things, attempt=1)
    text = json.dumps(server.body(with_schema)["response_format"]) + user_text(server.body(with_schema))
    assert server.estimate(with_schema) >= (len(text) + 100 * 2) * 1e-6


def test_settings_tell_the_paid_service_from_others(fake):
    assert ChatServer("m", price=PRICE).settings["service"] != server_at(fake).settings["service"]
    assert server_at(fake).settings == ChatServer("fake", "http://other/v1", price=FREE).settings


def test_image_errors_of_an_id_name_the_image(fake, tmp_path):
    with pytest.raises(ImageError, match="gone.png: no such file"):
        server_at(fake).request_id(ask(images=(tmp_path / "gone.png",)))
