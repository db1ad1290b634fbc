"""Whatever a server sends becomes an outcome or a stop, which can be written and printed."""

import asyncio
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.chat.errors import kind_of, read_error
from contextcir.chat.exchange import OUTCOMES, ChatStop, Outcome
from contextcir.chat.json_text import read_json
from contextcir.chat.plain_text import printable
from contextcir.chat.prices import FREE
from contextcir.chat.server import ChatServer
from tests.chat.conftest import COST, PRICE, Things, ask_all, complete, kinds, question, questions, server_at
from tests.fake_chat_server import Reply, completion, error

FUZZ = settings(max_examples=300, deadline=None, database=None, derandomize=True)
TEXTS = st.text(st.characters(exclude_categories=()), max_size=30) | st.sampled_from(
    [
        '{"things": ["a"]}',
        '{"things": ["\\ud83d"]}',
        "<think>",
        "</think>",
        "content_filter",
        "length",
        "fake",
        "\x1b[31m",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)


def maybe(strategy):
    return strategy | VALUES


PARTS = st.lists(
    st.fixed_dictionaries(
        {"type": maybe(st.sampled_from(["text", "refusal"]))}, optional={"text": VALUES, "refusal": VALUES}
    )
)
MESSAGES = st.fixed_dictionaries(
    {}, optional={"content": maybe(TEXTS | PARTS), "refusal": maybe(TEXTS), "reasoning_content": VALUES}
)
CHOICES = st.fixed_dictionaries(
    {}, optional={"message": maybe(MESSAGES), "finish_reason": maybe(TEXTS), "index": VALUES}
)
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
USAGES = st.fixed_dictionaries({}, optional={name: VALUES for name in COUNTS})
ERRORS = st.fixed_dictionaries(
    {}, optional={name: VALUES for name in ("message", "code", "type", "status", "innererror", "metadata", "msg")}
)
PAYLOADS = VALUES | st.fixed_dictionaries(
    {},
    optional={
        "choices": maybe(st.lists(maybe(CHOICES), max_size=2)),
        "usage": maybe(USAGES),
        "model": maybe(st.just("fake")),
        "error": maybe(ERRORS),
        "detail": VALUES,
    },
)


def check(outcome):
    """An outcome that can be written into a ledger, and printed in one line."""
    assert outcome.kind in OUTCOMES and (outcome.value is not None) == (outcome.kind == "answered")
    for text in (outcome.text, outcome.model, outcome.error):
        text.encode()
    assert outcome.error == printable(outcome.error)
    if isinstance(outcome.value, Things):
        outcome.value.model_dump_json()
    assert math.isfinite(outcome.usd) and outcome.usd >= 0
    assert type(outcome.prompt_tokens) is int and outcome.prompt_tokens >= 0 <= outcome.completion_tokens


@pytest.mark.fault("C01", "whatever a server sends is an outcome or a stop, never an error of Python")
@FUZZ
@given(PAYLOADS, st.sampled_from([200, 200, 200, 400, 403, 404, 413, 429, 500]), st.sampled_from([None, Things]))
def test_any_json_is_an_outcome_or_a_stop(payload, status, schema):
    server = ChatServer("fake", "http://localhost/v1", price=PRICE, temperature=0.5)
    try:
        outcome = server.read_reply(status, payload, None, question(schema=schema, images=(b"",)), set())
    except ChatStop as stop:
        assert str(stop) == printable(str(stop), 2000) and stop.usd >= 0
        return
    if isinstance(outcome, Outcome):
        check(outcome)


@pytest.mark.fault("C01", "whatever a server sends is an outcome or a stop, never an error of Python")
@FUZZ
@given(st.binary(max_size=60) | TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")), TEXTS)
def test_any_bytes_are_json_or_text(content, encoding):
    json.dumps(read_json(content, encoding), ensure_ascii=False).encode()


@pytest.mark.fault("C01", "whatever a server sends is an outcome or a stop, never an error of Python")
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('{"choices": [{"message": {"content": "half \\ud83d"}}]}', "answered"),
        ('{"choices": [{"message": {"content": "x", "refusal": {"why": "no"}}}]}', "refused"),
        ('{"choices": [{"message": {"content": null, "refusal": true}}]}', "refused"),
        ('{"choices": [{"message": {"content": [{"type": "text", "text": "one"}, {"type": "text"}]}}]}', "answered"),
        ('{"choices": [{"message": null, "finish_reason": "content_filter"}]}', "filtered"),
        ('{"choices": [null]}', "failed"),
        ('{"choices": {}, "usage": []}', "failed"),
        ("[" * 100_000, "failed"),
        ('{"choices": ' + "9" * 5000 + "}", "failed"),
    ],
)
def test_odd_completions_over_http(fake, body, kind):
    fake.answer = lambda request: Reply(200, body)
    outcome = complete(fake, question())
    assert outcome.kind == kind
    check(outcome)


@pytest.mark.fault("C02", "half of a character pair in an answer is replaced, and the answer is kept")
@pytest.mark.parametrize(
    "content", ['{"things": ["a\ud83d"]}', '{"things": ["a\\ud83d"]}', 'So: {"things": ["a\\ud83d"]}']
)
def test_a_lone_surrogate_ends_no_run(tmp_path, fake, content):
    fake.answer = lambda body: completion(content)
    outcomes, *_ = ask_all(tmp_path, fake, [question(schema=Things)])
    assert outcomes[0].value == Things(things=["a\ufffd"])
    fake.bodies.clear()
    outcomes, *_ = ask_all(tmp_path, fake, [question(schema=Things)])
    assert outcomes[0].recalled and not fake.bodies


@pytest.mark.fault("C02", "half of a character pair in a prompt is replaced, and the request is sent")
def test_a_lone_surrogate_in_a_prompt(tmp_path, fake):
    outcomes, *_ = ask_all(tmp_path, fake, [question("a \ud83d b")])
    assert outcomes[0].value == "echo a \ufffd b"


@pytest.mark.fault("C03", "an answer in another encoding is read as its header says")
@pytest.mark.parametrize(("encoding", "header"), [("latin-1", "latin-1"), ("utf-16", ""), ("utf-8-sig", "")])
def test_other_encodings(encoding, header):
    payload = json.dumps(completion("café").body, ensure_ascii=False).encode(encoding)
    assert read_json(payload, header or None)["choices"][0]["message"]["content"] == "café"


# --- usage -----------------------------------------------------------------------------------------------------------


def with_usage(usage):
    reply = completion("fine", usage=None)
    return Reply(200, json.dumps(reply.body | {"usage": usage}))


@pytest.mark.fault("C10", "token counts that cannot be believed cost the upper bound, and are marked as doubtful")
@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"total_tokens": 15},
        {"prompt_tokens": -1000, "completion_tokens": 5},
        {"prompt_tokens": 10, "completion_tokens": -5},
        {"prompt_tokens": 10.5, "completion_tokens": 5},
        {"prompt_tokens": math.inf, "completion_tokens": 5},
        {"prompt_tokens": math.nan, "completion_tokens": 5},
        {"prompt_tokens": True, "completion_tokens": 5},
        {"prompt_tokens": "10", "completion_tokens": "5"},
        {"prompt_tokens": 10**30, "completion_tokens": 5},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 10, "completion_tokens": 0},
        [10, 5],
    ],
)
def test_unbelievable_usage_costs_the_bound(fake, usage):
    fake.answer = lambda body: with_usage(usage)
    outcome = complete(fake, question())
    assert outcome.kind == "answered" and outcome.doubtful
    assert outcome.usd == server_at(fake).estimate(question()) > 0
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (0, 0)
    assert not complete(fake, question(), price=FREE).doubtful  # it is no question of money there


def test_reasoning_that_is_counted_in_the_total_only_is_paid(fake):
    fake.answer = lambda body: with_usage({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115})
    outcome = complete(fake, question())
    assert (outcome.completion_tokens, outcome.doubtful) == (105, False)
    assert outcome.usd == pytest.approx(10e-6 + 105 * 2e-6)


@pytest.mark.fault("C11", "an error with status 200 is unpaid, or costs what its own usage says")
@pytest.mark.parametrize(("usage", "usd"), [(None, 0), ({"prompt_tokens": 10, "completion_tokens": 5}, COST)])
def test_an_error_inside_of_a_200_costs_what_it_says(fake, usage, usd):
    fake.answer = lambda body: Reply(200, {"error": {"message": "upstream is gone", "code": 502}, "usage": usage})
    outcome = complete(fake, question())
    assert (outcome.kind, outcome.usd, outcome.doubtful) == ("failed", pytest.approx(usd), False)
    assert "502: upstream is gone" in outcome.error


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("C20", "a flagged image is an outcome of its request, whatever the status")
@pytest.mark.parametrize(
    "reply",
    [
        error(403, "Your input was flagged for sexual content.", code="403"),
        Reply(403, {"error": {"code": 403, "message": "Forbidden", "metadata": {"raw": "blocked by moderation"}}}),
        error(400, "no", code="content_policy_violation"),
        error(400, "The response was filtered due to the prompt triggering Azure's content management policy."),
        Reply(
            400, {"error": {"code": "400", "message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}
        ),
        Reply(400, {"error": {"code": "data_inspection_failed", "message": "Input may be odd."}}),
        Reply(200, {"error": {"code": 403, "message": "moderation refused it"}}),
        error(401, "flagged by moderation"),
    ],
)
def test_one_flagged_image_stops_nothing(tmp_path, fake, reply):
    fake.faults.append(reply)
    outcomes, *_ = ask_all(tmp_path, fake, questions(3), concurrency=1)
    assert sorted(kinds(outcomes)) == ["answered", "answered", "filtered"]


@pytest.mark.fault(
    "C20", "a 403 without a reason ends a run before the first answer, and concerns one request after it"
)
def test_a_403_without_a_reason(tmp_path, fake):
    fake.answer = lambda body: error(403, "Forbidden")
    outcomes, *_ = ask_all(tmp_path / "a", fake, questions(3), concurrency=1)
    assert kinds(outcomes) == ["key"] * 3 and len(fake.bodies) == 1
    fake.answer = lambda body: error(403, "Forbidden") if "1" in str(body) else completion()
    outcomes, *_ = ask_all(tmp_path / "b", fake, questions(3), concurrency=1)
    assert kinds(outcomes) == ["answered", "failed", "answered"]


@pytest.mark.parametrize(
    ("status", "payload", "kind"),
    [
        (400, [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}], "key"),
        (400, {"error": {"message": "anything/x is not a valid model ID", "code": 400}}, "model"),
        (404, {"object": "error", "message": "The model `x` does not exist.", "code": 404}, "model"),
        (404, {"error": 'model "x" not found, try pulling it first'}, "model"),
        (400, {"error": {"message": "The model `x` has been decommissioned"}}, "model"),
        (404, {"detail": "Not Found"}, "address"),
        (404, {"error": {"code": "404", "message": "Resource not found"}}, "address"),
        (404, "404 page not found", "address"),
        (405, {"detail": "Method Not Allowed"}, "address"),
        (200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}, "address"),
        (200, "<!doctype html><title>Hello</title>", "address"),
        (502, "<html><title>content policy</title>", "other"),
        (400, {"error": {"message": "This model does not support image inputs."}}, "images"),
        (404, {"error": {"message": "No endpoints found that support image input"}}, "images"),
        (500, {"error": {"message": "image input is not supported - hint: provide the mmproj"}}, "images"),
        (400, {"message": "At most 0 image(s) may be provided in one request."}, "images"),
        (400, {"message": "At most 1 image(s) may be provided in one request."}, "one_image"),
        (400, {"error": {"message": "Multiple images are not supported"}}, "one_image"),
        (400, {"error": {"message": "You uploaded an unsupported image.", "code": "invalid_image_format"}}, "other"),
        (400, {"error": {"message": "Invalid image: it could not be decoded, not a JPEG"}}, "other"),
        (503, {"error": {"message": "The model x is not available at the moment"}}, "other"),
        (429, {"error": {"message": "Request too large for gpt on tokens per min"}}, "other"),
        (429, {"error": {"message": "slow down"}}, "busy"),
        (429, {"error": {"message": "You exceeded your current quota"}}, "quota"),
        (400, {"error": {"message": "no", "code": "json_validate_failed"}}, "invalid_json"),
        (400, {"error": {"message": "Unknown name $defs at generation_config.response_schema"}}, "schema"),
        (400, {"error": {"message": "failed to parse grammar"}}, "schema"),
        (413, "<html>413 Request Entity Too Large</html>", "large"),
        (400, {"error": {"message": "image exceeds 5 MB maximum: 6000000 bytes"}}, "large"),
        (400, {"error": {"message": "The API deployment does not exist.", "code": "DeploymentNotFound"}}, "model"),
        (404, {"error": {"message": "models/x is not found for API version v1beta"}}, "model"),
        (400, {"error": {"message": "The requested model 'x' is not supported."}}, "model"),
        (400, {"error": {"message": "The model 'x' doesn't exist"}}, "model"),
        (400, {"error": {"message": "The model gave an unknown error"}}, "other"),
        (400, {"error": {"message": "The model x was asked with the parameter y, which is deprecated"}}, "other"),
        (400, {"error": {"message": "Invalid URL (POST /v1/v1/chat/completions)"}}, "address"),
        (400, {"error": {"message": "No auth credentials found"}}, "key"),
        (402, {"error": {"message": "This request requires more credits"}}, "quota"),
        (401, None, "key"),
        (403, None, "forbidden"),
        (500, None, "other"),
    ],
)
def test_what_an_error_is_about(status, payload, kind):
    assert kind_of(read_error(status, payload)) == kind


@pytest.mark.fault("C21", "JSON that the provider itself finds malformed is asked for once more")
def test_json_that_the_provider_rejects(tmp_path, fake):
    fake.faults.append(error(400, "Failed to generate JSON.", code="json_validate_failed"))
    fake.answer = lambda body: completion('{"things": []}')
    outcomes, *_ = ask_all(tmp_path, fake, [question(schema=Things)])
    assert kinds(outcomes) == ["answered"] and len(fake.bodies) == 2
    assert "response_format" in fake.bodies[1]


@pytest.mark.fault("C22", "a server's words are printed without escapes, marks of direction or secrets, in one line")
def test_the_words_of_a_server_are_safe_to_print(fake):
    fake.answer = lambda body: error(
        400, "no \x1b[2J\x07 \u202egnp.exe\u2066\n\r\nsk-verysecret \ud83d" + "x" * 10_000
    )
    outcome = complete(fake, question())
    assert outcome.error.isprintable() and len(outcome.error) <= 500
    assert r"no \x1b[2J\x07 \u202egnp.exe\u2066 [key]" in outcome.error


@pytest.mark.fault("C23", "repair of JSON does not block the event loop")
def test_repair_is_off_the_event_loop(fake, monkeypatch):
    import time

    from contextcir.chat import server as module

    def slow(payload, schema):
        time.sleep(0.8)  # far from what a busy machine takes for a tick
        return Outcome("malformed")

    monkeypatch.setattr(module, "read_completion", slow)
    ticks = []

    async def run():
        async with server_at(fake) as server:
            task = asyncio.create_task(server.complete(question()))
            while not task.done():
                ticks.append(time.monotonic())
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert max(later - before for before, later in zip(ticks, ticks[1:], strict=False)) < 0.6
