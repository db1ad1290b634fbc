"""Blocks, mistakes, and the guarantees of the benchmark, checked on scene graphs without a model."""

import random
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from contextcir import scenes
from contextcir.metrics.bound import recall_at_1_bound
from contextcir.scenes import SPLITS, Edit, Scene, apply, compose
from contextcir.scenes.benchmark import MAX_TARGETS
from contextcir.scenes.blocks import NUM_REFERENCES, NUM_TEXTS, QUERIES
from contextcir.scenes.world import VALUES
from tests.scenes.small_scenes import HEART, RING, STAR, THREE

LENGTHS = {"iid": {1, 2}, "combinations": {1, 2}, "wordings": {1, 2}, "longer": {4, 5}, "three": {3}}


@pytest.fixture(scope="module")
def blocks():
    """Two blocks of each split."""
    rng = random.Random(3)
    return {split: [scenes.sample_block(rng, split) for _ in range(2)] for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_half_a_query_of_a_block_is_not_enough(blocks, split):
    for block in blocks[split]:
        assert len(block.queries) == NUM_REFERENCES and {len(row) for row in block.queries} == {NUM_TEXTS}
        for row in block.queries:  # a reference has six targets
            assert len({query.reference for query in row}) == 1
            assert len({query.target for query in row}) == NUM_TEXTS
        for column in zip(*block.queries, strict=True):  # a text has four, and means the same edits in all scenes
            assert len({query.text for query in column}) == 1
            assert len({tuple(edit.kind for edit in query.edits) for query in column}) == 1
            assert len({query.target for query in column}) == NUM_REFERENCES


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_has_only_its_own_held_out_features(blocks, split):
    queries = [query for block in blocks[split] for row in block.queries for query in row]
    for query in queries:
        assert apply(query.reference, query.edits) == query.target and 1 <= len(query.target.things) <= 6
        assert all(set(phrase.denotes.things) <= set(query.reference.things) for phrase in query.noun_phrases)
        assert scenes.has_held_out_word(query.text) == (split == "wordings")
        assert split == "combinations" or not scenes.any_held_out(query.reference.things)
        for edit in query.edits:
            things = [thing for thing in (edit.old, edit.new) if thing]
            assert scenes.any_held_out(things) == (split == "combinations")
    assert {len(query.edits) for query in queries} == LENGTHS[split]
    kinds = {edit.kind for query in queries for edit in query.edits}
    assert len(kinds) >= 4
    assert split != "combinations" or "background" not in kinds  # a background has no held-out pair


def test_unknown_split():
    with pytest.raises(ValueError, match="'far'.*iid, combinations, wordings, longer, three"):
        scenes.sample_block(random.Random(0), "far")


def mistakes_of(edits, single_edits=None, scene=THREE, kept=None, seed=0):
    query = scenes.make_query(random.Random(0), scene, edits, kept)
    return scenes.mistakes(random.Random(seed), query, single_edits or edits)


def test_types_of_mistakes(queries):
    rng = random.Random(3)
    kinds = Counter()
    for query in queries:
        found = scenes.mistakes(rng, query, query.edits)
        kinds.update(kind for kind, wrong in found.items() if wrong)
        assert query.target not in [scene for wrong in found.values() for scene in wrong]
        left_out = [[edit for edit in query.edits if edit != omitted] for omitted in query.edits]
        assert found["partial"] == [apply(query.reference, edits) for edits in left_out[::-1] if edits]
        for scene in found["binding"]:  # the same values, on other things
            for name in VALUES:
                values = [sorted(getattr(thing, name) for thing in s.things) for s in (scene, query.target)]
                assert values[0] == values[1]
    assert min(kinds.values()) > 20 and len(kinds) == 5


def test_mistakes_about_a_removal():
    remove = [Edit("remove", STAR)]
    assert mistakes_of(remove, [*remove, Edit("remove", RING)])["over"] == [Scene("beach", (HEART,))]
    (more,) = mistakes_of(remove)["negation"]
    assert sum(thing.look() == STAR.look() for thing in more.things) == 2
    assert {RING, HEART} <= set(more.things)
    for seed in range(5):
        (wrong,) = mistakes_of(remove, seed=seed)["wrong_thing"]
        assert STAR in wrong.things and len(wrong.things) == 2


def test_a_thing_to_keep_is_changed_by_mistake():
    small, kept = replace(STAR, size="small"), replace(HEART, size="large")
    edits = [Edit("resize", STAR, small)]
    (wrong,) = mistakes_of(edits, scene=Scene("beach", (STAR, RING, kept)), kept=kept)["negation"]
    assert set(wrong.things) == {small, RING, HEART}


@pytest.fixture(scope="module")
def benchmark():
    """One block of each split."""
    return compose("test", 5 * QUERIES, 700, 0)


@pytest.fixture(scope="module")
def shown(benchmark):
    """Id of a picture -> its scene."""
    return {id_: picture.scene for id_, picture in benchmark.pictures()}


def test_the_gallery_has_all_types_of_mistakes(benchmark, shown):
    for question in benchmark.questions:
        query, of_kind = question.query, defaultdict(set)
        for id_, kind in question.wrong.items():
            of_kind[kind].add(shown[id_])
        assert question.wrong[question.reference_id] == "reference"
        assert not set(question.wrong) & set(question.target_ids)
        assert of_kind["reference"] == of_kind["copy"] == {query.reference}
        for part in combinations(query.edits, len(query.edits) - 1):
            assert apply(query.reference, part) in of_kind["partial"] or not part
        assert len(of_kind["other_scene"]) == NUM_REFERENCES - 1
        assert of_kind["other_edit"]
    assert set(scenes.count_kinds(benchmark.questions)) == set(scenes.KINDS)


def test_exactly_the_pictures_of_the_target_scene_are_relevant(benchmark, shown):
    pictures = defaultdict(set)
    for id_, scene in shown.items():
        pictures[scene].add(id_)
    for question in benchmark.questions:
        assert set(question.target_ids) == pictures[question.query.target]
    numbers = {len(question.target_ids) for question in benchmark.questions}
    assert numbers >= {1, 2} and max(numbers) <= MAX_TARGETS


def test_half_a_query_is_bounded_and_a_whole_query_is_not(benchmark, shown):
    questions = benchmark.questions
    targets = [question.target_ids for question in questions]
    assert recall_at_1_bound([question.query.text for question in questions], targets) <= 100 / NUM_REFERENCES
    references = [question.reference_id for question in questions]
    assert recall_at_1_bound(references, targets) == pytest.approx(100 / NUM_TEXTS)
    for question in questions:
        wanted = apply(shown[question.reference_id], question.query.edits)
        assert next(id_ for id_, scene in shown.items() if scene == wanted) in question.target_ids


def test_four_queries_share_their_candidates(benchmark):
    sets = defaultdict(list)
    for question in benchmark.questions:
        ranked = frozenset(question.candidate_ids) - {question.reference_id}
        assert len(question.candidate_ids) == 6 and len(ranked) == 5
        (target,) = ranked & set(question.target_ids)
        sets[ranked].append((question.query.text, question.reference_id, target))
    for rows in sets.values():
        assert len(rows) == 4
        assert [len(set(column)) for column in zip(*rows, strict=True)] == [2, 2, 4]


def test_ids_are_in_random_order(benchmark):
    places = np.array([int(question.target_ids[0].rpartition("-")[2]) for question in benchmark.questions])
    assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 0.3
    assert places.min() < 70 and places.max() > 630


def test_validation_is_iid():
    validation = compose("validation", QUERIES, None, 0)
    assert {question.split for question in validation.questions} == {"iid"}
    assert validation.gallery_size == len(validation.placed)
    assert {id_.partition("-")[0] for id_, _ in validation.pictures()} == {"validation"}


def test_arguments_determine_the_benchmark():
    small, again, other, large = (compose("test", QUERIES, *last) for last in ((200, 0), (200, 0), (200, 1), (400, 0)))
    assert again.questions == small.questions != other.questions
    assert list(again.pictures()) == list(small.pictures())
    needed = {picture.scene for picture in small.placed.values()}
    assert needed == {picture.scene for picture in large.placed.values()}
    pictures = dict(large.pictures())
    assert len(pictures) == 400
    assert sum(picture.scene in needed for picture in pictures.values()) == len(large.placed)  # others are unrelated


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("test", 500, 2000, 0), "500.*480.*504"),
        (("test", 7, 2000, 0), "7 test.*24.*48"),
        (("test", 24, 50, 0), "50 .*24 .*1?[0-9][0-9]"),
        (("train", 24, 50, 0), "'train'.*validation, test"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        compose(*arguments)
