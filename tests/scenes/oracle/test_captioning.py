"""Answers to good4cir and InstructCIR."""

import re

import pytest

from contextcir.captions.schemas import Differences, ImageCaption, ReferenceObjects, Reformulation, TargetObjects
from contextcir.scenes.differences import Score, score_differences
from contextcir.scenes.oracle import Faults, Oracle
from contextcir.scenes.reading import read_caption
from tests.scenes.oracle.chat import answer, caption, data


def good4cir(oracle, pictures, query):
    """The answers of the three stages of good4cir."""
    reference = answer(oracle, ReferenceObjects, "", [pictures[query.reference]]).model_dump()["objects"]
    prompt = data(reference_objects=reference)
    target = answer(oracle, TargetObjects, prompt, [pictures[query.target]]).model_dump()["objects"]
    prompt = data(reference_objects=reference, target_objects=target)
    return reference, target, answer(oracle, Differences, prompt).model_dump()["differences"]


def test_objects_have_distinct_names_and_unchanged_ones_keep_theirs(truth, pictures, queries):
    oracle = Oracle(truth)
    for query in queries:
        reference, target, _ = good4cir(oracle, pictures, query)
        for objects, scene in ((reference, query.reference), (target, query.target)):
            assert len({described["name"] for described in objects}) == len(objects) == len(scene.things) + 1
        unchanged = len(set(query.reference.things) & set(query.target.things))
        unchanged += query.reference.background == query.target.background
        assert sum(described in reference for described in target) == unchanged


def test_differences_are_right_without_faults(truth, pictures, queries):
    oracle = Oracle(truth)
    for query in queries:
        found = good4cir(oracle, pictures, query)[2]
        score = score_differences(found, query.reference, query.target)
        assert (score.precision, score.recall) == (1, 1), (query, found)
        assert not any(re.search("alone|as it is", difference["text"]) for difference in found)


@pytest.mark.parametrize(
    "rates, lowered",
    [
        ({"objects_hallucinated": 0.5}, ["precision"]),
        ({"objects_missed": 0.2}, ["precision", "recall"]),
        ({"objects_wrong": 0.2}, ["precision", "recall"]),
        ({"differences_wrong": 0.5}, ["precision", "recall"]),
    ],
)
def test_errors_propagate(truth, pictures, queries, rates, lowered):
    oracle = Oracle(truth, faults=Faults(**rates))
    scores = [score_differences(good4cir(oracle, pictures, q)[2], q.reference, q.target) for q in queries]
    total = sum(scores, Score())
    assert all(0.3 < getattr(total, name) < 0.92 for name in lowered)


def test_lists_that_are_not_of_scenes_are_compared_by_name(truth):
    table, lamp = {"name": "table", "descriptors": ["oak"]}, {"name": "lamp", "descriptors": ["tall"]}
    pine = {"name": "table", "descriptors": ["pine", "round"]}
    prompt = data(reference_objects=[table, lamp], target_objects=[pine, {"name": "rug", "descriptors": []}])
    rows = [tuple(found.model_dump().values()) for found in answer(Oracle(truth), Differences, prompt).differences]
    assert rows == [
        ("modify", "make the table pine and round", "table", "table"),
        ("remove", "remove the lamp", "lamp", None),
        ("add", "add a rug", None, "rug"),
    ]
    same = data(reference_objects=[table], target_objects=[table])
    assert answer(Oracle(truth), Differences, same).differences == []


def test_captions_and_reformulations(truth, pictures, queries):
    oracle, changes = Oracle(truth), []
    for query in queries:
        scenes = query.reference, query.target
        one, other = (answer(oracle, ImageCaption, "", [pictures[scene]]).caption for scene in scenes)
        assert (read_caption(one), read_caption(other)) == scenes
        changes.append(answer(oracle, Reformulation, data(caption_a=one, caption_b=other)).change)
    assert all(1 <= len(change.split()) <= 12 for change in changes)
    assert len(set(changes)) > len(queries) / 2


def test_reformulations_of_equal_captions_and_of_others(truth, queries):
    same = data(caption_a=caption(queries[0].reference, 1), caption_b=caption(queries[0].reference, 2))
    assert answer(Oracle(truth), Reformulation, same).change == "keep everything as it is"
    words = data(caption_a="a dog", caption_b="two dogs that run over the snow behind a sledge towards a house")
    change = answer(Oracle(truth), Reformulation, words).change
    assert change.startswith("show two dogs that run") and len(change.split()) == 12
    wrong = Oracle(truth, faults=Faults(reformulations_wrong=1.0))
    assert answer(wrong, Reformulation, same).change != "keep everything as it is"


def test_wrong_captions(truth, pictures, queries):
    oracle = Oracle(truth, faults=Faults(captions_wrong=1.0))
    for query in queries:
        wrong = read_caption(answer(oracle, ImageCaption, "", [pictures[query.target]]).caption)
        assert wrong is not None and wrong != query.target
