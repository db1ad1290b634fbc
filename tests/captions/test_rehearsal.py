"""A dry run takes a pair through all stages with placeholders, and estimates the cost."""

import asyncio
from dataclasses import replace

import pytest

from contextcir.captions.inspection import Inspector
from contextcir.captions.recipes import load_prompts
from contextcir.captions.rehearsal import PLACEHOLDERS, Rehearsal, count_requests, rehearse
from contextcir.chat.prices import FREE, Price
from contextcir.chat.server import ChatServer
from tests.captions.conftest import pairs_of, run


@pytest.mark.parametrize("recipe", ["good4cir", "instructcir"])
def test_all_stages_are_rehearsed(pair, tmp_path, recipe):
    rehearsal = Rehearsal()
    (result,), _, _ = run([pair], rehearsal, tmp_path, recipe=recipe)
    assert result.reason in ("", "no_caption_left")
    assert [request.role for request, _ in rehearsal.requests][-1] == list(load_prompts(recipe))[-1]
    assert len(rehearsal.requests) == 3
    assert all(len(request.prompt) > 200 for request, _ in rehearsal.requests)


def test_placeholders_fit_their_schemas():
    for schema, placeholder in PLACEHOLDERS.items():
        assert isinstance(placeholder(0), schema)


def test_the_cost_is_the_mean_of_each_stage_times_its_requests(pair, tmp_path):
    rehearsal = Rehearsal()
    run(pairs_of(pair, 2), rehearsal, tmp_path)
    server = ChatServer("m", price=Price(1.0, 0.0, image_tokens=1000), max_tokens=10)
    objects = [request for request, _ in rehearsal.requests if request.role == "target_objects"]
    likely, most = rehearsal.cost({"target_objects": 4}, server)
    assert likely == pytest.approx(2 * sum(1000 + len(request.prompt) // 4 for request in objects) / 1e6)
    assert most == pytest.approx(2 * sum(map(server.estimate, objects))) and most > likely


def test_requests_about_one_image_are_counted_once(pair):
    counts = count_requests([pair, replace(pair, target_id="x"), pair, replace(pair, reference_id="y")])
    per_pair = dict.fromkeys(("target_objects", "differences", "reformulation"), 3)
    assert counts == {"reference_objects": 2, "image_caption": 4, **per_pair}


@pytest.mark.parametrize(("target", "reason"), [("gone.png", r"gone\.png"), ("0.png", "0.png and 1.png")])
def test_the_reason_is_given_if_no_pair_can_be_used(pair, tmp_path, target, reason):
    unusable = replace(pair, target_image=str(tmp_path / target))
    dry_run = rehearse([unusable], "good4cir", load_prompts("good4cir"), ChatServer("m", price=FREE), Inspector())
    with pytest.raises(ValueError, match=f"1 pairs.*{reason}"):
        asyncio.run(dry_run)
