"""Noun phrases, where the model looks for them, and re-ranking with reasons."""

import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from contextcir.chat.exchange import ChatStop
from contextcir.cli.serve import Attention
from contextcir.serving import Answer, Judged
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from tests.serving.world import draw, png

REFERENCE = "circle/red 40.png"
TEXT = "make the red circle blue"


def phrases_of(text: str) -> list[dict]:
    """Every word, the last one first."""
    found, start = [], 0
    for word in text.split():
        start = text.index(word, start)
        found.append({"text": word, "start": start, "end": start + len(word)})
        start += len(word)
    return found[::-1]


def looks(image, text, phrases):
    """The first phrase at the top left, the others everywhere; the second one has no tokens."""
    corner, even = np.array([[1.0, 0], [0, 0]]), np.full((2, 2), 0.25)
    context = [None if place == 1 else corner if place == 0 else even for place in range(len(phrases))]
    isolated = [None if place == 1 else even for place in range(len(phrases))]
    return SimpleNamespace(image=image, context=context, isolated=isolated)


def test_phrases_are_in_the_order_of_the_text(gallery, start):
    client = start(gallery, phrases=phrases_of)
    assert client.get("/info").json()["capabilities"]["phrases"]
    found = client.post("/phrases", data={"text": TEXT}).json()["phrases"]
    assert [phrase["text"] for phrase in found] == TEXT.split()
    assert all(TEXT[phrase["start"] : phrase["end"]] == phrase["text"] for phrase in found)
    assert client.post("/phrases", data={"text": ""}).json() == {"phrases": []}
    assert client.post("/phrases", data={"text": "x" * 501}).status_code == 422
    assert client.post("/phrases", data={}).status_code in (415, 422)


def test_maps_of_phrases(gallery, start):
    client = start(gallery, phrases=phrases_of, attention=looks)
    assert client.get("/info").json()["capabilities"]["attention"]
    answer = client.post("/attention", data={"text": TEXT, "reference": REFERENCE}).json()
    first, second, third, *_ = answer["phrases"]
    assert (first["text"], first["context"], first["distance"]) == ("make", [[1, 0], [0, 0]], 0.75)
    assert second["context"] is second["isolated"] is second["distance"] is None
    assert third["isolated"] == [[0.25, 0.25], [0.25, 0.25]] and third["distance"] == 0
    kind, content = answer["image"].split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (120, 120)
    files = {"upload": ("a.png", png(draw("blue", "square", 0.5, 64)))}
    content = client.post("/attention", data={"text": TEXT}, files=files).json()["image"].split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (64, 64)
    assert client.post("/attention", data={"text": TEXT}).status_code == 422
    assert client.post("/attention", data={"text": " ", "reference": REFERENCE}).status_code == 422


def test_attention_needs_phrases(gallery, start):
    client = start(gallery, attention=looks)
    assert not client.get("/info").json()["capabilities"]["attention"]
    assert client.post("/attention", data={"text": TEXT, "reference": REFERENCE}).status_code == 404


def test_too_many_at_a_time(gallery, start):
    hold = threading.Event()
    client = start(gallery, phrases=lambda text: hold.wait(10) and [])
    with ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(client.post, "/phrases", data={"text": "x"}) for _ in range(24)]
        while sum(one.done() for one in asked) < 8:
            pass
        hold.set()
        statuses = sorted(one.result().status_code for one in asked)
    assert statuses == [200] * 16 + [429] * 8


def test_the_attention_of_a_model(run, gallery, start):
    """What `contextcir serve` passes on: the maps of the model, over the picture as it sees it."""
    model, processor = ContextCIRModel.from_pretrained(run).eval(), ContextCIRProcessor.from_pretrained(run)
    client = start(gallery, phrases=phrases_of, attention=Attention(model, processor))
    answer = client.post("/attention", data={"text": TEXT, "reference": REFERENCE}).json()
    for phrase in answer["phrases"]:
        for kind in ("context", "isolated"):
            assert np.shape(phrase[kind]) == (5, 5) and np.sum(phrase[kind]) == pytest.approx(1, abs=1e-4)
        assert 0 <= phrase["distance"] <= 1
    seen = Image.open(io.BytesIO(base64.b64decode(answer["image"].split(",")[1])))
    assert seen.size == (30, 30)
    red, green, blue = seen.getpixel((15, 15))
    assert red > 150 > green and red > 150 > blue  # the circle


def judge(query, gallery, ids):
    """The last one first, with reasons."""
    assert query.modification_text == TEXT and query.reference_id == REFERENCE
    assert query.reference_image.size == (120, 120)
    answers = [Answer(question="Is it blue?", expected="yes", got="no")]
    return [Judged(id=id_, answers=answers, verdict="reject", reason=f"{id_} is red.") for id_ in reversed(ids)]


def test_reranking(gallery, start):
    client = start(gallery, rerank=judge)
    assert client.get("/info").json()["capabilities"]["rerank"]
    ids = ["circle/blue 40.png", "circle/blue 60.png"]
    form = {"text": TEXT, "reference": REFERENCE, "ids": json.dumps(ids)}
    results = client.post("/rerank", data=form).json()["results"]
    assert [one["id"] for one in results] == ids[::-1]
    assert results[0]["reason"] == "circle/blue 60.png is red." and results[0]["verdict"] == "reject"
    assert results[0]["answers"] == [{"question": "Is it blue?", "expected": "yes", "got": "no"}]
    for wrong in (
        {"ids": "[]"},
        {"ids": '["gone.png"]'},
        {"ids": "x"},
        {"text": ""},
        {"ids": json.dumps(["a"] * 101)},
    ):
        assert client.post("/rerank", data=form | wrong).status_code == 422, wrong


def test_chat_servers_that_do_not_answer(gallery, start):
    def stopped(*_):
        raise ChatStop("unreachable", "http://secret.example does not answer")

    form = {"text": TEXT, "reference": REFERENCE, "ids": json.dumps([REFERENCE])}
    answer = start(gallery, rerank=stopped).post("/rerank", data=form)
    assert answer.status_code == 502 and "secret" not in answer.text
