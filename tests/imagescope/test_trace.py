"""What was answered is not asked again: going on from any point, other settings and captioners, damaged files."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from contextcir.chat.images import image_digest
from contextcir.chat.server import ChatStop
from contextcir.retrieval.base import Query
from contextcir.retrieval.imagescope.cache import CaptionCache, EmbedCache, weights_id
from contextcir.retrieval.imagescope.trace import Trace, read_trace
from tests.imagescope_world import World
from tests.tiny_triplets import png


def world() -> World:
    return World({number: png(number) for number in range(40)}, lambda text, ref: (ref or 0) + int(text.split()[-1]))


QUERIES = [Query(id=f"q{place}", modification_text=f"plus {place}", reference_id="p3") for place in range(1, 6)]


def search(pictures, folder, **options):
    scope = pictures.scope(folder, **options)
    return scope.search(QUERIES, pictures.gallery(), 10, exclude_reference=True).gallery_ids


def asked_by(pictures, folder, **options) -> dict:
    before = pictures.counts()
    search(pictures, folder, **options)
    return dict(pictures.counts() - before)


# --- the same again, and other settings ------------------------------------------------------------------------------


def test_other_settings_ask_only_what_they_change(tmp_path):
    pictures = world()
    first = search(pictures, tmp_path)
    content = (tmp_path / "trace.jsonl").read_bytes()
    assert search(pictures, tmp_path) == first and asked_by(pictures, tmp_path) == {}
    assert (tmp_path / "trace.jsonl").read_bytes() == content  # nothing new, nothing written
    assert asked_by(pictures, tmp_path, evaluated=4) == {"evaluator": 5}
    assert asked_by(pictures, tmp_path, verified=22) == {"verifier": 10}
    assert asked_by(pictures, tmp_path, models={"verifier": "other"}) == {"verifier": 100}
    assert asked_by(pictures, tmp_path, models={"evaluator": "other"}) == {"evaluator": 15}
    assert asked_by(pictures, tmp_path, models={"reasoner": "other"}) == {"reasoner": 10}  # it says the same
    assert asked_by(pictures, tmp_path, models={"captioner": "other"}) == {"captioner": 40}
    assert asked_by(pictures, tmp_path, tau=0.16) == {}
    assert asked_by(pictures, tmp_path) == {}  # and what was known before is known still
    assert search(pictures, tmp_path) == first


def test_captions_of_one_captioner_never_pass_for_those_of_another(tmp_path):
    pictures = world()
    search(pictures, tmp_path, verified=0, evaluated=0)
    pictures.texts["captioner"] = lambda request: '{"caption": "picture 30"}'
    search(pictures, tmp_path, verified=0, evaluated=0, models={"captioner": "other"})
    assert {record["descriptions"][1] for record in read_trace(tmp_path / "trace.jsonl")} == {
        f"picture {30 + place}" for place in range(1, 6)
    }
    pictures.texts.clear()
    search(pictures, tmp_path, verified=0, evaluated=0, benchmark="fashioniq")  # another prompt
    assert pictures.counts()["captioner"] == 120


def test_captions_are_known_by_the_content_of_images(tmp_path):
    pictures = world()
    search(pictures, tmp_path)
    for number in range(40):
        (tmp_path / f"renamed-{number}.png").write_bytes(png(number))
    pictures.pictures = {number: tmp_path / f"renamed-{number}.png" for number in range(40)}
    assert asked_by(pictures, tmp_path) == {}
    assert search(pictures, tmp_path / "new") and pictures.counts()["captioner"] == 80  # another cache


def test_failed_calls_are_asked_again(tmp_path):
    pictures = world()
    pictures.texts["verifier"] = lambda request: "no" if pictures.number(request.images[0]) == 4 else None
    search(pictures, tmp_path)
    pictures.texts.clear()
    assert asked_by(pictures, tmp_path)["verifier"] == 5


@pytest.mark.parametrize("after", [0, 30, 45, 55, 90, 140, 164])
def test_a_run_that_is_stopped_anywhere_goes_on(tmp_path, after):
    pictures = world()

    def stop(request):
        if pictures.answered >= after:
            raise ChatStop("quota", "The quota is exhausted.")

    pictures.faults = dict.fromkeys(("captioner", "reasoner", "verifier", "evaluator"), stop)
    with pytest.raises(ChatStop, match=r"The \w+ \(model-\w+\): The quota is exhausted"):
        search(pictures, tmp_path)
    assert pictures.answered == after
    pictures.faults.clear()
    assert search(pictures, tmp_path) == search(world(), tmp_path / "uninterrupted")
    assert pictures.answered == 40 + 2 * 5 + 20 * 5 + 3 * 5  # each question once


def test_an_interrupt_keeps_what_was_answered(tmp_path):
    pictures = world()

    def interrupt(request):
        if pictures.answered == 60:
            os.kill(os.getpid(), signal.SIGINT)

    pictures.faults["verifier"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        search(pictures, tmp_path, waiting=1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert 60 < pictures.answered < 165
    pictures.faults.clear()
    search(pictures, tmp_path, waiting=1)
    assert pictures.answered == 165


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.imagescope.test_trace import search, world
pictures = world()
def kill(request):
    if sum(pictures.counts().values()) > 100:
        os.kill(os.getpid(), signal.SIGKILL)
pictures.faults["verifier"] = kill
search(pictures, Path({folder!r}), waiting=1)
"""


def test_a_run_that_is_killed_goes_on(tmp_path, request):
    script = KILLED.format(tests=str(request.path.parent), folder=str(tmp_path))
    environment = os.environ | {"PYTHONPATH": str(request.config.rootpath)}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=250)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    pictures = world()
    # Before the third query's verification 40 captions, 5 reasonings, 3 x propositions, 2 x 23 answers were there.
    assert search(pictures, tmp_path, waiting=1) == search(world(), tmp_path / "uninterrupted")
    assert "captioner" not in pictures.counts()
    assert pictures.counts()["reasoner"] <= 3 and pictures.counts()["verifier"] <= 60


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_line_for_each_query_and_the_last_counts(tmp_path):
    trace = Trace(tmp_path / "trace.jsonl")
    one, other = QUERIES[:2]
    for place in range(3):
        trace.write(trace.read(one) | {"place": place})
        trace.write(trace.read(other) | {"place": -place})
    again = Trace(tmp_path / "trace.jsonl")
    assert (again.read(one)["place"], again.read(other)["place"]) == (2, -2)
    assert [record["place"] for record in read_trace(tmp_path / "trace.jsonl")] == [2, -2]
    again.compact()
    assert len((tmp_path / "trace.jsonl").read_text().splitlines()) == 3
    assert (again.read(one)["place"], again.read(other)["place"]) == (2, -2)
    again.write(again.read(one) | {"place": 7})
    assert Trace(tmp_path / "trace.jsonl").read(one)["place"] == 7


def test_an_unfinished_last_line_is_cut_off(tmp_path):
    path = tmp_path / "trace.jsonl"
    trace = Trace(path)
    trace.write(trace.read(QUERIES[0]) | {"place": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "')
    assert [record["place"] for record in read_trace(path)] == [1]
    trace = Trace(path)
    assert path.read_bytes() == whole
    trace.write(trace.read(QUERIES[1]) | {"place": 2})
    assert [record["place"] for record in read_trace(path)] == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"trace": "imagescope", "version": 7}\n', "is a trace of version 7, and this is version 1. Choose another"),
        ('{"retriever": "x"}\n', "is no trace of ImageScope"),
        ("[]\n", "is no trace of ImageScope"),
        ("query,text\n", "is no trace of ImageScope"),
        ('{"trace": "imagescope", "version": 1}\nnonsense\n', "byte 38: is not JSON"),
    ],
)
def test_another_file_or_version_is_refused_and_left_alone(tmp_path, content, message):
    path = tmp_path / "trace.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        Trace(path)
    assert path.read_text() == content


def test_captions_survive_an_unfinished_line(tmp_path):
    cache = CaptionCache(tmp_path, "model", "prompt")
    cache.add("a", "a dog", 0)
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes() + b'\n{"image": "b", "capt')
    cache.add("c", "größer\n", 0)
    cache.add("d", "by another one", 1)
    assert CaptionCache(tmp_path, "model", "prompt").read() == {
        "a": "a dog",
        "c": "größer\n",
        "d": "by another one",
    }
    assert CaptionCache(tmp_path, "model", "other").read() == CaptionCache(tmp_path, "other", "prompt").read() == {}
    assert json.loads(file.read_text().splitlines()[1])["image"] == "a"


def test_embeddings_are_encoded_once_in_chunks_and_come_back_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("contextcir.retrieval.imagescope.cache.CHUNK", 3)
    encoded = []

    def encode(keys):
        def encode_places(places):
            if "poison" in [keys[place] for place in places]:
                raise ValueError("cannot be read")
            encoded.extend(keys[place] for place in places)
            return torch.tensor([[float(ord(keys[place])), 1.0] for place in places])

        return encode_places

    cache, keys = EmbedCache(tmp_path / "x"), list("abcabde")
    rows = cache.get(keys, encode(keys))
    assert rows.tolist() == [[float(ord(key)), 1.0] for key in keys]
    assert encoded == list("abcde")
    keys = list("gfedcb") + ["poison"]
    with pytest.raises(ValueError, match="cannot be read"):
        cache.get(keys, encode(keys))
    keys = list("gfa")  # the first chunk of what failed was kept; there was none before the poison
    assert cache.get(keys, encode(keys)).tolist() == [[float(ord(key)), 1.0] for key in keys]
    assert encoded == list("abcdegf")


def test_models_and_images_are_known_by_what_they_are(tmp_path):
    torch.manual_seed(0)
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert weights_id(one) != weights_id(other)
    other.load_state_dict(one.state_dict())
    assert weights_id(one) == weights_id(other) != weights_id(one.half())
    (tmp_path / "a.png").write_bytes(png(1))
    assert image_digest(tmp_path / "a.png") == image_digest({"bytes": png(1), "path": None}) != image_digest(png(2))
