"""Servers that differ from OpenAI's: each is spoken to in a form that it takes, or ends the run with one sentence."""

import asyncio
import json
import time

import pytest
from PIL import Image

from contextcir.chat import pace
from contextcir.chat.exchange import ChatRequest, ChatStop
from contextcir.chat.model_names import same_model
from contextcir.chat.server import ChatServer
from contextcir.data.images import encode_image
from tests.chat.conftest import PRICE, Things, ask_all, complete, interrupt, kinds, question, questions, server_at
from tests.fake_chat_server import FakeChatServer, Reply, completion, error

PICTURE = encode_image(Image.linear_gradient("L").convert("RGB"))
IMAGES = {"images": (PICTURE,)}
KEY = "sk-proj-very-secret-0123456789"


# --- other forms -----------------------------------------------------------------------------------------------------


def only_new_limit(body):
    if "max_tokens" in body:
        words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
        return error(400, words, code="unsupported_parameter")
    return completion("fine")


def only_old_limit(body):
    if "max_completion_tokens" in body:
        return Reply(
            422, {"detail": [{"loc": ["body", "max_completion_tokens"], "msg": "Extra inputs not permitted"}]}
        )
    return completion("fine")


def only_prompted_schemas(body):
    if "response_format" in body:
        return error(400, "Unknown name \"$defs\" at 'generation_config.response_schema': Cannot find field.")
    return completion('{"things": []}')


@pytest.mark.fault("V01", "the other name of the limit of tokens, and a schema in the prompt, are tried once and kept")
@pytest.mark.parametrize("mode", ["online", "batch"])
@pytest.mark.parametrize(("answer", "schema"), [(only_new_limit, None), (only_prompted_schemas, Things)])
def test_a_form_that_a_server_rejects_is_changed_once(tmp_path, fake, mode, answer, schema):
    fake.answer = answer
    outcomes, _, (_, unsure), _ = ask_all(
        tmp_path, fake, questions(3, schema=schema), mode, **({"concurrency": 1} if mode == "online" else {})
    )
    assert kinds(outcomes) == ["answered"] * 3 and unsure == 0
    assert len(fake.bodies) == (4 if mode == "online" else 6)


def test_openais_limit_is_changed_for_an_old_server(fake, monkeypatch):
    fake.answer = only_old_limit

    async def twice():
        async with server_at(fake) as server:
            server._limit, server._other_limit = "max_completion_tokens", "max_tokens"
            return [await server.complete(question(text)) for text in "ab"]

    assert kinds(asyncio.run(twice())) == ["answered"] * 2
    assert ["max_tokens" in body for body in fake.bodies] == [False, True, True]


def test_a_limit_that_is_too_large_is_no_other_name(fake):
    fake.answer = lambda body: error(400, "max_tokens is too large: 50000. This model supports at most 4096 tokens.")
    assert complete(fake, question()).kind == "failed" and len(fake.bodies) == 1


@pytest.mark.fault("V02", "an image that is too large for a server is sent once more at half its size")
@pytest.mark.parametrize("mode", ["online", "batch"])
def test_a_large_image_is_scaled_down(tmp_path, fake, mode):
    def answer(body):
        url = body["messages"][0]["content"][0]["image_url"]["url"]
        return completion() if len(url) < 20_000 else Reply(413, "<html>413 Request Entity Too Large</html>")

    noise = encode_image(Image.effect_noise((200, 200), 90).convert("RGB"))
    fake.answer = answer
    outcomes, *_ = ask_all(tmp_path, fake, [question(images=(noise,))], mode)
    assert kinds(outcomes) == ["answered"] and len(fake.bodies) == 2
    fake.answer = lambda body: Reply(413, "too large")
    outcomes, *_ = ask_all(tmp_path, fake, [question("two", images=(noise,)), question("none")], mode)
    assert kinds(outcomes) == ["failed"] * 2 and len(fake.bodies) == 5
    assert "413" in outcomes[0].error


# --- one sentence ----------------------------------------------------------------------------------------------------


@pytest.mark.fault("V03", "a server that can answer nothing ends the run after one round, with what to do")
@pytest.mark.parametrize(
    ("reply", "options", "reason", "advice"),
    [
        (Reply(200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}), {}, "address", "/v1"),
        (Reply(200, "<!doctype html><title>Welcome</title>"), {}, "address", "/v1"),
        (Reply(404, {"detail": "Not Found"}), {}, "address", "/v1"),
        (error(400, "The model does not support image inputs"), IMAGES, "images", "takes no images"),
        (error(500, "image input is not supported - provide the mmproj"), IMAGES, "images", "takes no images"),
        (
            error(400, "At most 1 image(s) may be provided"),
            {"images": (PICTURE,) * 2},
            "images",
            "limit-mm-per-prompt",
        ),
        (error(400, "fake is not a valid model ID"), {}, "model", "Check the model"),
        (error(410, "gone"), {}, "model", "Check the model"),
        (error(400, "no", code="model_not_found"), {}, "model", "Check the model"),
        (error(400, "API key not valid. Please pass a valid API key."), {}, "key", "OPENAI_API_KEY"),
        (error(400, "Unsupported value: 'temperature' does not support 0.5"), {}, "option", "temperature"),
        (error(400, "Unknown parameter: 'num_ctx'."), {}, "option", "num_ctx"),
    ],
)
def test_what_no_request_can_mend_stops_after_one_round(fake, reply, options, reason, advice):
    fake.answer = lambda body: reply
    settings = {"max_retries": 3, "temperature": 0.5, "extra_body": {"num_ctx": 8}}
    with pytest.raises(ChatStop) as caught:
        complete(fake, question(**options), **settings)
    assert caught.value.reason == reason and advice in str(caught.value) and caught.value.usd == 0
    assert str(reply.status) in str(caught.value) and len(fake.bodies) == 1


@pytest.mark.parametrize(("options", "failed"), [({}, "failed"), (IMAGES, "failed")])
def test_words_about_images_stop_no_run_that_has_answered_such_requests(tmp_path, fake, options, failed):
    fake.faults.append(completion())
    fake.answer = lambda body: error(400, "image input is not supported")
    outcomes, *_ = ask_all(tmp_path, fake, questions(2, **options), concurrency=1)
    assert kinds(outcomes) == ["answered", failed]


# --- addresses, headers, bodies, names -------------------------------------------------------------------------------


@pytest.mark.fault("V04", "the query of the address, extra headers and an extra body go with each request")
def test_query_headers_and_body(fake):
    plain = server_at(fake)
    options = {"extra_headers": {"X-Title": "mine"}, "extra_body": {"options": {"num_ctx": 8192}}}

    async def once():
        async with ChatServer("fake", f"{fake.url}?api-version=2024-10-21&x=", price=PRICE, **options) as server:
            assert "2024" not in server.address and "2024" not in repr(server)
            return await server.complete(question()), server

    outcome, server = asyncio.run(once())
    assert outcome.kind == "answered"
    assert fake.paths == ["/v1/chat/completions?api-version=2024-10-21&x="]
    assert fake.headers[0]["x-title"] == "mine" and fake.bodies[0]["options"] == {"num_ctx": 8192}
    assert server.request_id(question()) != plain.request_id(question())  # the answer depends on the body
    assert server.settings == plain.settings | {"extra_body": {"options": {"num_ctx": 8192}}}
    headed = server_at(fake, extra_headers={"a": "b"}, accept_model=["b"], insecure=True)
    assert headed.request_id(question()) == plain.request_id(question())  # and on none of these
    assert headed.settings == plain.settings
    with pytest.raises(ValueError, match="max_tokens, n"):
        server_at(fake, extra_body={"n": 3, "max_tokens": 5})


@pytest.mark.fault("V05", "a model may answer under a name that --accept_model gives")
def test_accepted_names(fake):
    fake.answer = lambda body: completion(model="gpt-4o-2024-08-06")
    with pytest.raises(ChatStop, match=r"--accept_model gpt-4o-2024-08-06"):
        complete(fake, question())
    assert complete(fake, question(), accept_model=["x", "gpt-4o-2024-08-06"]).model == "gpt-4o-2024-08-06"


@pytest.mark.parametrize(
    ("requested", "answered", "same"),
    [
        ("gpt-4o", "openai/gpt-4o-2024-08-06", True),
        ("openai/gpt-4o:free", "openai/gpt-4o", True),
        ("llama3", "llama3:latest", True),
        ("Qwen/Qwen2", "qwen/qwen2", True),
        ("llama3:70b", "llama3:8b", False),
        ("mine/gpt-4o", "openai/gpt-4o", False),
        ("gpt-4o", "openai/gpt-4o-mini", False),
    ],
)
def test_names_of_one_model(requested, answered, same):
    assert same_model(requested, answered) == same


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("V06", "the time-out bounds an attempt as a whole, however slowly a response arrives")
def test_a_slow_drip_ends(fake):
    fake.answer = lambda body: Reply(200, completion().body, drip=0.2)  # no pause is longer than the time-out
    start = time.monotonic()
    outcome = complete(fake, question(), timeout=0.5, max_retries=0)
    assert outcome.kind == "failed" and "timed out" in outcome.error and time.monotonic() - start < 1.5
    assert outcome.lost_usd == server_at(fake).estimate(question())


@pytest.mark.fault("V06", "a response without an end is not read for ever")
def test_a_response_is_bounded_in_bytes(fake, monkeypatch):
    from contextcir.chat import connection

    monkeypatch.setattr(connection, "MAX_BYTES", 1000)
    fake.answer = lambda body: completion("x" * 2000)
    outcome = complete(fake, question(), max_retries=0)
    assert outcome.kind == "failed" and "1,000 bytes" in outcome.error and outcome.lost_usd > 0


@pytest.mark.fault("V07", "a server that asks to wait gets no request meanwhile; the run goes on afterwards")
def test_a_busy_server_pauses_the_run(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(pace, "MIN_PAUSE", 0.3)
    monkeypatch.setattr("contextcir.chat.server.MIN_PAUSE", 0.3)
    times = []

    def answer(body):
        times.append(time.monotonic())
        return error(429) if len(times) <= 2 else completion()

    fake.answer = answer
    outcomes, _, (_, unsure), _ = ask_all(tmp_path, fake, questions(3), concurrency=1, retries=1)
    assert kinds(outcomes) == ["answered"] * 3 and unsure == 0
    assert times[2] - times[1] >= 0.3 and len(times) == 5


@pytest.mark.fault("V07", "a server that asks to wait too long ends the run, which can be continued")
@pytest.mark.parametrize("wait", ["1300", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_server_that_is_busy_for_long_stops_the_run(tmp_path, fake, wait):
    fake.answer = lambda body: error(429, headers={"Retry-After": wait})
    outcomes, _, spending, _ = ask_all(tmp_path, fake, questions(3), concurrency=1)
    assert kinds(outcomes) == ["busy"] * 3 and spending == (0, 0) and len(fake.bodies) == 1
    fake.answer = lambda body: completion()
    outcomes, *_ = ask_all(tmp_path, fake, questions(3))
    assert kinds(outcomes) == ["answered"] * 3


@pytest.mark.fault("V07", "an interrupted pause owes nothing")
def test_an_interrupted_pause_owes_nothing(tmp_path, fake, monkeypatch):
    monkeypatch.setattr("contextcir.chat.dispatch.DRAIN_SECONDS", 0.1)
    fake.answer = lambda body: error(429, headers={"Retry-After": "300"})
    seconds, states, unsure = interrupt(tmp_path, fake, lambda: len(fake.bodies) == 2, number=2)
    assert seconds < 2 and states == {"planned": 2} and unsure == 0


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault("V08", "a redirection to another address gets neither the key nor the content of a request")
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_request_is_sent_on_to_another_server(fake, status):
    with FakeChatServer() as other:
        there = other.url.replace("//", "//user:pw@") + "/chat/completions?token=x"
        fake.answer = lambda body: Reply(status, "moved", {"Location": there})
        with pytest.raises(ChatStop) as caught:
            complete(fake, question(), max_retries=2)
        assert caught.value.reason == "address" and f"{other.url}/chat/completions." in str(caught.value)
        assert "pw" not in str(caught.value) and "token" not in str(caught.value)
        assert not other.paths and len(fake.bodies) == 1 and caught.value.usd == 0


def test_a_redirection_on_one_server_is_followed(fake):
    fake.faults.append(Reply(307, "moved", {"Location": fake.url + "/chat/completions?again"}))
    outcome = complete(fake, question())
    assert outcome.kind == "answered" and outcome.lost_usd == 0 and fake.bodies[0] == fake.bodies[1]


@pytest.mark.fault("V09", "a key crosses no network unencrypted, unless --insecure is given")
@pytest.mark.parametrize(
    ("url", "options", "refused"),
    [
        ("http://example.com/v1", {"key": KEY}, True),
        ("http://192.168.0.7:8000/v1", {"key": KEY}, True),
        ("http://me:pw@example.com/v1", {}, True),
        ("http://example.com/v1", {"extra_headers": {"Authorization": "Basic x"}}, True),
        ("http://example.com/v1?api_key=x", {}, True),
        ("http://example.com/v1", {"extra_headers": {"X-Title": "mine"}}, False),
        ("http://example.com/v1", {"key": KEY, "insecure": True}, False),
        ("http://example.com/v1", {}, False),
        ("https://example.com/v1", {"key": KEY}, False),
        ("http://127.8.0.1/v1", {"key": KEY}, False),
        ("http://[::1]:8000/v1", {"key": KEY}, False),
        ("http://localhost:8000/v1", {"key": KEY}, False),
    ],
)
def test_keys_over_http(tmp_path, url, options, refused):
    if key := options.pop("key", None):
        (tmp_path / "key").write_text(key)
        options["key_file"] = tmp_path / "key"
    server = ChatServer("m", url, price=PRICE, **options)
    assert server.estimate(question()) > 0  # a dry run is not refused
    if refused:
        with pytest.raises(ChatStop, match="--insecure") as caught:
            asyncio.run(server.complete(question()))
        assert caught.value.reason == "key" and "pw" not in str(caught.value) and KEY not in str(caught.value)
    else:
        assert server.client


def test_secrets_of_headers_and_addresses_appear_nowhere(fake):
    fake.answer = lambda body: error(400, "got header-secret and query-secret and pa55word")
    url = fake.url.replace("//", "//me:pa55word@") + "?api_key=query-secret"

    async def once():
        headers = {"X-Api-Key": "header-secret"}
        async with ChatServer("fake", url, price=PRICE, extra_headers=headers) as server:
            return await server.complete(ChatRequest("r", "hello")), json.dumps([repr(server), server.settings])

    outcome, shown = asyncio.run(once())
    assert "got [key] and [key] and [key]" in outcome.error
    assert "secret" not in outcome.error + shown and "pa55" not in outcome.error + shown


@pytest.mark.parametrize(
    ("hosts", "expected"), [(("127.0.0.1",), (KEY, None)), ((".azure.com",), (None, f"Bearer {KEY}"))]
)
def test_azure_gets_its_key_in_its_own_header(fake, monkeypatch, hosts, expected):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("contextcir.chat.connection.AZURE", hosts)
    assert complete(fake, question()).kind == "answered"
    assert (fake.headers[0].get("api-key"), fake.headers[0].get("authorization")) == expected
