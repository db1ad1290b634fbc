"""Simulated faults of content and of the form of answers."""

import random
import re

import pytest
from pydantic import ValidationError

from contextcir.captions.schemas import Reformulation
from contextcir.scenes.oracle import Faults, Oracle
from contextcir.scenes.oracle.faults import malform, misperceive, mistake
from tests.scenes.oracle.chat import about, body_of, code_of, data


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rate_429": 1.5}, "rate_429.*1.5"),
        ({"objects_missed": -0.1}, "objects_missed.*-0.1"),
        ({"latency": -1.0}, "latency.*-1.0"),
        ({"quota": -1}, "quota.*-1"),
        ({"rate_429": 0.6, "rate_5xx": 0.6}, "rate_429, rate_5xx"),
        ({"cut": 0.6, "malformed": 0.6}, "cut, malformed"),
    ],
)
def test_invalid_rates(settings, message):
    with pytest.raises(ValueError, match=message):
        Faults(**settings)


def test_errors_of_perception(queries):
    rng = random.Random(0)
    for scene in (query.reference for query in queries * 8):
        assert mistake(rng, scene) != scene and mistake(rng, scene).things
        assert misperceive(rng, scene, hallucinated=0, missed=0, wrong=0) == scene
        assert len(misperceive(rng, scene, hallucinated=0, missed=1, wrong=0).things) == 1
        more = misperceive(rng, scene, hallucinated=1, missed=0, wrong=0)
        assert len({thing.cell for thing in more.things}) == len(scene.things) + 1
        wrong = misperceive(rng, scene, hallucinated=0, missed=0, wrong=1)
        assert not set(wrong.things) & set(scene.things) and len(wrong.things) == len(scene.things)


def choice(truth, faults, **options):
    """Content, refusal and finish reason of an answer."""
    found = Oracle(truth, faults=faults).respond(about("has a cat", **options)).body["choices"][0]
    return found["message"]["content"], found["message"]["refusal"], found["finish_reason"]


def test_refused_filtered_and_cut_answers(truth):
    whole, refusal, finish = choice(truth, Faults())
    assert (refusal, finish) == (None, "stop")
    content, refusal, finish = choice(truth, Faults(refusals=1.0))
    assert content is None and refusal and finish == "stop"
    assert choice(truth, Faults(content_filter=1.0)) == ("", None, "content_filter")
    content, _, finish = choice(truth, Faults(cut=1.0))
    assert finish == "length" and whole.startswith(content) and 0 < len(content) < len(whole)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_length_limits(truth, name):
    whole, _, _ = choice(truth, Faults())
    content, _, finish = choice(truth, Faults(), **{name: 10})
    assert finish == "length" and len(content) == 40
    assert choice(truth, Faults(), **{name: 1000}) == (whole, None, "stop")


def test_half_of_the_malformed_answers_can_be_repaired():
    content = Reformulation(change="make the star blue").model_dump_json()
    repairable = 0
    for seed in range(200):
        malformed = malform(random.Random(seed), content)
        with pytest.raises(ValidationError):
            Reformulation.model_validate_json(malformed)
        inner = re.search(r"\{.*\}", malformed, re.DOTALL)
        repairable += bool(inner) and inner[0].replace(",}", "}") == content
    assert 70 < repairable < 130


def test_limits_of_servers(truth):
    oracle = Oracle(truth, faults=Faults(answering_model="cheaper", reject_schema=True), models=("dear",))
    reply = oracle.respond(about("has a cat") | {"model": "dear"})
    assert reply.status == 400 and "response_format" in reply.body["error"]["message"]
    body = body_of(None, '<schema name="Reasoning">' + data(instruction="a cat")) | {"model": "dear"}
    assert oracle.respond(body).body["model"] == "cheaper"


def test_quota(truth):
    oracle = Oracle(truth, faults=Faults(quota=2))
    for number in range(4):
        reply = oracle.respond(about(f"has {number} cats"))
        reply.delivered()
        assert reply.status == (200 if number < 2 else 429)
    assert code_of(reply) == (429, "insufficient_quota")
