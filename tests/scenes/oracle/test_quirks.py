"""The oracle plays servers that differ, and the client of chat servers gets along with them, or says what to do."""

import asyncio

import pytest

from contextcir.captions.schemas import ReferenceObjects, TargetObjects
from contextcir.chat.dispatch import Dispatcher
from contextcir.chat.dispatch_batch import BatchDispatcher
from contextcir.chat.exchange import ChatRequest, ChatStop
from contextcir.chat.ledger import Ledger
from contextcir.chat.prices import Price
from contextcir.chat.server import ChatServer
from contextcir.retrieval.imagescope.roles import Evaluation
from contextcir.scenes.oracle import Faults, Oracle
from contextcir.scenes.oracle.quirks import FORMS, REJECTIONS, USAGES
from tests.scenes.oracle.chat import data

PRICE = Price(1.0, 2.0)


def lists(pictures, number=1):
    """Requests for the objects of images."""
    chosen = list(pictures.values())[:number]
    return [ChatRequest("reference_objects", "List.", (picture,), ReferenceObjects) for picture in chosen]


def ask(folder, truth, requests, batch=False, temperature=None, timeout=10.0, **faults):
    """Ask the oracle with faults. Returns outcomes, or stops in their place, and the oracle."""
    oracle = Oracle(truth, faults=Faults(**faults))

    async def run(url):
        server = ChatServer("oracle", url, price=PRICE, temperature=temperature, timeout=timeout, max_retries=0)
        with Ledger(folder, server.settings) as ledger:
            kind = BatchDispatcher if batch else Dispatcher
            options = {"poll_seconds": 0.05} if batch else {"concurrency": 1}
            async with server, kind(server, ledger, **options) as dispatcher:
                return await asyncio.gather(*map(dispatcher.ask, requests), return_exceptions=True)

    with oracle as url:
        return asyncio.run(run(url)), oracle


def kinds(outcomes):
    return [outcome.reason if isinstance(outcome, ChatStop) else outcome.kind for outcome in outcomes]


EXPECTED = {  # what a request with an image comes to
    "no_max_tokens": "answered",
    "no_max_completion_tokens": "answered",
    "no_temperature": "option",
    "no_references": "answered",
    "no_grammar": "answered",
    "text_only": "images",
    "one_image": "answered",
    "no_model_400": "model",
    "no_model_410": "model",
    "bad_key_400": "key",
    "no_v1": "address",
    "web_page": "address",
}


@pytest.mark.fault("V10", "servers that differ are spoken to in their form, or end the run after one request")
@pytest.mark.parametrize("name", REJECTIONS)
def test_servers_that_reject(tmp_path, truth, pictures, name):
    outcomes, oracle = ask(tmp_path, truth, lists(pictures, 3), temperature=0.5, rejects=[name])
    assert kinds(outcomes) == [EXPECTED[name]] * 3
    answered = EXPECTED[name] == "answered"
    assert oracle.outcomes["answered"] == (3 if answered else 0) and oracle.outcomes[name] <= 1


def test_a_server_that_takes_one_image(tmp_path, truth, pictures, queries):
    first, second, *_ = pictures.values()
    pair = ChatRequest("evaluator", data(instruction=queries[0].text), (first, second), Evaluation)
    outcomes, _ = ask(tmp_path, truth, [pair], rejects=["one_image"])
    assert kinds(outcomes) == ["images"]


FORM_KINDS = {"odd_refusal": "refused", "no_choices": "failed"} | dict.fromkeys(
    ("unclosed_thinking", "reasoning_only"), "malformed"
)


@pytest.mark.fault("C50", "answers of other forms are read, or are outcomes")
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_answers(tmp_path, truth, pictures, form):
    outcomes, _ = ask(tmp_path, truth, lists(pictures, 3), form=form)
    assert kinds(outcomes) == [FORM_KINDS.get(form, "answered")] * 3
    if kinds(outcomes)[0] == "answered":
        assert all(outcome.value.objects for outcome in outcomes)


@pytest.mark.fault("C10", "token counts that cannot be believed cost the upper bound, and are marked as doubtful")
@pytest.mark.parametrize("usage", USAGES)
def test_counts_of_tokens(tmp_path, truth, pictures, usage):
    (request,) = lists(pictures)
    (outcome,), _ = ask(tmp_path, truth, [request], usage=usage)
    assert outcome.kind == "answered" and outcome.doubtful
    assert outcome.usd == ChatServer("oracle", "http://localhost/v1", price=PRICE).estimate(request)


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        ({"moderated": 1.0}, "filtered"),
        ({"errors_inside": 1.0}, "failed"),
        ({"invalid_json": 1.0}, "malformed"),
        ({"max_bytes": 100}, "failed"),
        ({"drip": 5.0}, "failed"),
        ({"redirect": "http://127.0.0.1:9/v1/chat/completions"}, "address"),
        ({"rate_429": 1.0, "retry_after": 1000.0}, "busy"),
    ],
)
def test_other_faults(tmp_path, truth, pictures, faults, kind):
    (outcome,), oracle = ask(tmp_path, truth, lists(pictures), timeout=0.5, **faults)
    assert kinds([outcome]) == [kind]
    if kind == "failed" and "drip" not in faults:
        assert outcome.usd == outcome.lost_usd == 0


def test_half_of_the_requests_moderated(tmp_path, truth, pictures):
    outcomes, oracle = ask(tmp_path, truth, lists(pictures, 20), moderated=0.5)
    assert set(kinds(outcomes)) == {"answered", "filtered"}
    assert kinds(outcomes).count("filtered") == oracle.outcomes["403"]


@pytest.mark.fault("C41", "a server that takes no batch of this size gets smaller ones, one after the other")
def test_batches_of_a_small_queue_with_damaged_lines(tmp_path, truth, pictures):
    requests = [*lists(pictures, 12), ChatRequest("t", "List.", (next(iter(pictures.values())),), TargetObjects)]
    outcomes, oracle = ask(tmp_path, truth, requests, batch=True, most_enqueued=4, damaged_lines=0.3)
    assert kinds(outcomes) == ["answered"] * 13
    assert oracle.ends_of_batches["failed"] and oracle.ends_of_batches["completed"] > 3
    assert sum(count > 1 for count in oracle.answered.values()) > 0  # whose lines were damaged


def test_unknown_names():
    for option in ({"rejects": ["no_max_tokens", "nothing"]}, {"form": "nothing"}, {"usage": "nothing"}):
        with pytest.raises(ValueError, match=r"nothing, expected one of .*\w"):
            Faults(**option)
