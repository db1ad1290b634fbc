"""Every pair ends as kept, or as failed with one reason."""

import asyncio
import json

import numpy as np
import pytest
from PIL import Image

from contextcir.captions.leakage import HeldOut
from contextcir.captions.recipes import load_prompts
from contextcir.captions.report import report_results
from contextcir.captions.schemas import Differences, TargetObjects
from contextcir.chat.exchange import ChatStop, Outcome
from contextcir.data.pairs import Pair
from tests.captions.conftest import BLUE, SOFA, Model, change, pairs_of, run


def test_a_kept_pair_has_its_stages_objects_and_captions(pair, tmp_path):
    (result,), captioner, log = run([pair], Model(), tmp_path)
    assert result.reason == "" and captioner.stopped is None
    assert [caption.text for caption in result.kept] == ["Make the sofa blue", "Take the lamp away"]
    assert result.stages == [
        {"stage": stage, "outcome": "answered", "model": "tiny-2026", "request_id": f"request-{number}"}
        for number, stage in enumerate(load_prompts("good4cir"), start=1)
    ]
    assert result.reference[0] == SOFA.model_dump() and result.target == [BLUE.model_dump()]
    log.save(tmp_path / "pairs.jsonl")
    assert json.loads((tmp_path / "pairs.jsonl").read_text())["captions"][1] == {
        "text": "Take the lamp away",
        "operation": "remove",
        "source_object": "floor lamp",
        "target_object": None,
        "dropped": None,
    }
    log.close()
    assert not (tmp_path / "log.jsonl").exists()


def test_every_pair_ends_with_one_reason(pair, tmp_path):
    Image.open(tmp_path / "0.png").save(tmp_path / "same.bmp")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "2.png").rename(tmp_path / "test1-9-img0.png")

    def to(name):
        return Pair(pair.reference_image, str(tmp_path / name), "0.png", name)

    pairs = [pair, to("missing.png"), to("broken.png"), to("same.bmp"), pair, to("test1-9-img0.png"), to("3.png")]
    held_out = HeldOut({"test1-9-img0": "cirr"}, np.zeros((0, 4), np.uint64), [])
    texts = iter(["Make the sofa blue", "Make it as in image 2"])
    model = Model(Differences=lambda request: Differences(differences=[change(next(texts))]))
    results, _, _ = run(pairs, model, tmp_path, in_flight=1, held_out=held_out)
    assert [result.reason for result in results] == [
        "",
        "unreadable_image",
        "unreadable_image",
        "identical_images",
        "repeated_pair",
        "test_image",
        "no_caption_left",
    ]
    assert "missing.png" in results[1].detail and "cirr test1-9-img0" in results[5].detail
    assert len(model.requests) == 6  # nothing was sent about the five unusable pairs
    assert results[6].captions[0]["dropped"] == "names_images" and results[6].kept == []
    report = report_results(results)
    assert (
        report["pairs"] == {"given": 7, "kept": 1, "failed": 6, "for_now": 0} and sum(report["failures"].values()) == 6
    )
    assert report["captions"] == {"written": 2, "kept": 1, "dropped": {"names_images": 1}}
    assert report["stages"]["differences"] == {"answered": 2} and report["models"] == ["tiny-2026"]
    assert report["operations"] == {"modify": 1}


def test_a_failed_stage_is_the_reason_and_is_counted(pair, tmp_path):
    (result,), _, _ = run([pair], Model(TargetObjects=Outcome("refused", error="no")), tmp_path)
    assert (result.reason, result.detail, result.kept) == ("target_objects: refused", "no", [])
    report = report_results([result])
    assert report["stages"] == {"reference_objects": {"answered": 1}, "target_objects": {"refused": 1}}
    assert report["failures"] == {"target_objects: refused": 1}


def test_a_stop_ends_all_requests_and_every_pair_has_a_result(pair, tmp_path):
    stop, answers = ChatStop("quota", "The quota is exhausted."), Model().answers
    model = Model(Differences=lambda _: stop if len(model.requests) > 10 else answers["Differences"])
    results, captioner, _ = run(pairs_of(pair, 30), model, tmp_path, in_flight=2)
    assert captioner.stopped.reason == "quota"
    reasons = [result.reason for result in results]
    assert set(reasons) == {"", "not_reached"} and 2 <= reasons.count("") <= 4
    assert len(model.requests) < 20 and results[-1].detail == "The quota is exhausted."


def test_an_unexpected_error_is_raised(pair, tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(pairs_of(pair, 9), Model(TargetObjects=ZeroDivisionError()), tmp_path)


def test_the_number_of_pairs_in_flight_is_bounded(pair, tmp_path):
    now = most = 0

    async def ask(request):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return await Model()(request)

    run(pairs_of(pair, 20), ask, tmp_path, in_flight=4)
    assert 3 <= most <= 4


def test_results_are_in_the_order_of_the_pairs(pair, tmp_path):
    async def ask(request):
        if request.schema is TargetObjects:
            await asyncio.sleep(0.02 if len(order) % 2 else 0)
            order.append(1)
        return await Model()(request)

    order = []
    pairs = pairs_of(pair, 12)
    results, _, log = run(pairs, ask, tmp_path, in_flight=5)
    assert [result.target_id for result in results] == [str(number) for number in range(12)]
    assert list(log) == results  # it can be read again
