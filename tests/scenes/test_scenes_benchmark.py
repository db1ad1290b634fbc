"""The guarantees of the scenes benchmark, each over scene graphs: no model has a part in them."""

import random
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest

from contextcir import scenes
from contextcir.metrics.bound import recall_at_1_bound
from contextcir.scenes import Denotation, Edit, Scene, Thing, apply
from contextcir.scenes.benchmark import MAX_TARGETS
from contextcir.scenes.blocks import NUM_REFERENCES, NUM_TEXTS, QUERIES
from contextcir.scenes.world import CELLS

STAR = Thing((0, 0), "star", "red", "large", "plain")
RING = Thing((1, 1), "ring", "blue", "small", "striped")
HEART = Thing((2, 2), "heart", "green", "small", "plain")
THREE = Scene("beach", (STAR, RING, HEART))


@pytest.fixture(scope="module")
def benchmark():
    """One block of each split."""
    return scenes.compose("test", 5 * QUERIES, 700, 0)


@pytest.fixture(scope="module")
def shown(benchmark):
    return {id_: picture.scene for id_, picture in benchmark.pictures()}


class TestBlocks:
    @pytest.mark.parametrize("split", scenes.SPLITS)
    def test_neither_half_is_enough(self, split):
        block = scenes.sample_block(random.Random(1), split)
        assert len(block.queries) == NUM_REFERENCES and {len(row) for row in block.queries} == {NUM_TEXTS}
        for row in block.queries:  # a reference with six targets
            assert len({query.reference for query in row}) == 1
            assert len({query.target for query in row}) == NUM_TEXTS
        for column in zip(*block.queries, strict=True):  # a text with four
            assert len({query.text for query in column}) == 1
            assert len({query.target for query in column}) == NUM_REFERENCES

    def test_a_text_means_the_same_in_every_scene(self):
        rng = random.Random(2)
        for split in scenes.SPLITS:
            for column in zip(*scenes.sample_block(rng, split).queries, strict=True):
                assert len({tuple(edit.kind for edit in query.edits) for query in column}) == 1
                for query in column:
                    assert apply(query.reference, query.edits) == query.target
                    for phrase in query.noun_phrases:
                        assert set(phrase.denotes.things) <= set(query.reference.things)

    def test_what_is_held_out_is_only_where_it_belongs(self):
        rng = random.Random(3)
        lengths, kinds = defaultdict(set), defaultdict(set)
        for split in scenes.SPLITS:
            for query in (query for _ in range(4) for row in scenes.sample_block(rng, split).queries for query in row):
                lengths[split].add(len(query.edits))
                kinds[split] |= {edit.kind for edit in query.edits}
                assert scenes.has_held_out_word(query.text) == (split == "wordings")
                for edit in query.edits:  # something held out comes, goes or changes
                    things = [thing for thing in (edit.old, edit.new) if thing]
                    assert scenes.any_held_out(things) == (split == "combinations")
                assert split == "combinations" or not scenes.any_held_out(query.reference.things)
                assert 1 <= len(query.target.things) <= 6
        short = {1, 2}
        assert lengths == {
            "iid": short, "combinations": short, "wordings": short, "longer": {4, 5}, "three": {3}
        }  # fmt: skip
        assert min(len(kinds["iid"]), len(kinds["combinations"])) >= 4
        assert "background" not in kinds["combinations"]  # nothing held out in it

    def test_an_unknown_split_is_named(self):
        with pytest.raises(ValueError, match="no split 'far'.*iid, combinations, wordings, longer, three"):
            scenes.sample_block(random.Random(0), "far")


class TestMistakes:
    def test_each_is_what_it_says_and_none_is_the_target(self):
        rng = random.Random(3)
        kinds = Counter()
        for number in range(300):
            query = scenes.sample_query(rng, 1 + number % scenes.MAX_EDITS)
            found = scenes.mistakes(rng, query, query.edits)
            kinds.update(kind for kind, some in found.items() if some)
            assert query.target not in [scene for some in found.values() for scene in some]
            left_out = [[edit for edit in query.edits if edit != omitted] for omitted in query.edits]
            assert found["partial"] == [apply(query.reference, some) for some in left_out[::-1] if some]
            for scene in found["binding"]:  # the same attributes in all, each on another thing
                for name in ("shape", "colour", "size", "pattern"):
                    values = [sorted(getattr(t, name) for t in s.things) for s in (scene, query.target)]
                    assert values[0] == values[1]
        assert min(kinds.values()) > 20 and len(kinds) == 5

    def test_over_does_what_other_texts_ask(self):
        edits = [Edit("remove", STAR), Edit("remove", RING)]
        query = scenes.make_query(random.Random(0), THREE, edits[:1])
        assert scenes.mistakes(random.Random(0), query, edits)["over"] == [Scene("beach", (HEART,))]

    def test_remove_is_read_as_add(self):
        query = scenes.make_query(random.Random(0), THREE, [Edit("remove", STAR)])
        (more,) = scenes.mistakes(random.Random(0), query, query.edits)["negation"]
        assert sum(thing.look() == STAR.look() for thing in more.things) == 2
        assert {RING, HEART} <= set(more.things)

    def test_do_not_change_is_read_as_change(self):
        green = [Edit("resize", STAR, Thing((0, 0), "star", "red", "small", "plain"))]
        kept = Thing((2, 2), "heart", "green", "large", "plain")
        query = scenes.make_query(random.Random(0), Scene("beach", (STAR, RING, kept)), green, kept)
        (touched,) = scenes.mistakes(random.Random(0), query, query.edits)["negation"]
        assert set(touched.things) == {green[0].new, RING, HEART}

    def test_the_wrong_thing_is_one_that_no_edit_speaks_of(self):
        query = scenes.make_query(random.Random(0), THREE, [Edit("remove", STAR)])
        for seed in range(5):
            (wrong,) = scenes.mistakes(random.Random(seed), query, query.edits)["wrong_thing"]
            assert STAR in wrong.things and len(wrong.things) == 2


class TestGuarantees:
    def test_every_kind_of_mistake_is_in_the_gallery(self, benchmark, shown):
        for question in benchmark.questions:
            query, wrong = question.query, question.wrong
            assert wrong[question.reference_id] == "reference"
            assert not set(wrong) & set(question.target_ids)
            of_kind = defaultdict(set)
            for id_, kind in wrong.items():
                of_kind[kind].add(shown[id_])
            assert of_kind["reference"] == of_kind["copy"] == {query.reference}
            for part in combinations(query.edits, len(query.edits) - 1):
                assert apply(query.reference, part) in of_kind["partial"] or not part
            assert len(of_kind["other_scene"]) == NUM_REFERENCES - 1
            assert of_kind["other_edit"]
        assert set(scenes.count_kinds(benchmark.questions)) == set(scenes.KINDS)

    def test_all_that_shows_the_target_is_relevant_and_nothing_else(self, benchmark, shown):
        pictures = defaultdict(set)
        for id_, scene in shown.items():
            pictures[scene].add(id_)
        numbers = set()
        for question in benchmark.questions:
            assert set(question.target_ids) == pictures[question.query.target]
            numbers.add(len(question.target_ids))
        assert numbers >= {1, 2} and max(numbers) <= MAX_TARGETS

    def test_half_a_query_is_bounded_and_a_whole_one_is_not(self, benchmark, shown):
        questions = benchmark.questions
        targets = [question.target_ids for question in questions]
        texts, references = ([q.query.text for q in questions], [q.reference_id for q in questions])
        assert recall_at_1_bound(texts, targets) <= 100 / NUM_REFERENCES
        assert recall_at_1_bound(references, targets) == pytest.approx(100 / NUM_TEXTS)
        # Who knows both, and all about scenes, finds everything.
        for question in questions:
            wanted = apply(shown[question.reference_id], question.query.edits)
            assert next(id_ for id_, scene in shown.items() if scene == wanted) in question.target_ids

    def test_candidates_share_four_answers(self, benchmark):
        sets = defaultdict(list)
        for question in benchmark.questions:
            ranked = frozenset(question.candidate_ids) - {question.reference_id}
            assert len(question.candidate_ids) == 6 and len(ranked) == 5
            (target,) = ranked & set(question.target_ids)
            sets[ranked].append((question.query.text, question.reference_id, target))
        for rows in sets.values():
            assert len(rows) == 4
            assert [len(set(column)) for column in zip(*rows, strict=True)] == [2, 2, 4]

    def test_ids_and_places_say_nothing(self, benchmark):
        # Targets, mistakes and pictures that have nothing to do with any query are mixed.
        order = [question.target_ids[0] for question in benchmark.questions]
        places = np.array([int(id_.rpartition("-")[2]) for id_ in order])
        assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 0.3
        assert places.min() < 70 and places.max() > 630

    def test_validation_holds_nothing_out(self):
        validation = scenes.compose("validation", 2 * QUERIES, None, 0)
        assert {question.split for question in validation.questions} == {"iid"}
        assert validation.gallery_size == len(validation.placed)
        assert {id_.partition("-")[0] for id_, _ in validation.pictures()} == {"validation"}


class TestComposition:
    def test_same_arguments_same_benchmark(self, benchmark):
        again, other = (scenes.compose("test", 5 * QUERIES, 700, seed) for seed in (0, 1))
        assert again.questions == benchmark.questions
        assert list(again.pictures()) == list(benchmark.pictures())
        assert other.questions != benchmark.questions

    def test_a_larger_gallery_has_more_of_the_unrelated(self):
        small, large = (scenes.compose("test", QUERIES, size, 0) for size in (200, 400))
        meant = {picture.scene for picture in small.placed.values()}
        assert meant == {picture.scene for picture in large.placed.values()}
        pictures = dict(large.pictures())
        assert len(pictures) == 400
        assert sum(picture.scene in meant for picture in pictures.values()) == len(large.placed)

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (("test", 500, 2000, 0), "there can be 480 or 504 test queries, not 500"),
            (("test", 7, 2000, 0), "there can be 24 or 48 test queries, not 7"),
            (("test", 24, 50, 0), "24 test queries need a gallery of 1?[0-9][0-9] pictures or more, not 50"),
            (("train", 24, 50, 0), "no part 'train' of scenes; there are validation, test"),
        ],
    )
    def test_what_cannot_be_is_named_with_what_can(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            scenes.compose(*arguments)


class TestTruth:
    def test_denotations_come_back_and_give_the_same_masks(self):
        for query in (scenes.sample_query(random.Random(seed), 3) for seed in range(20)):
            for phrase in query.noun_phrases:
                row = scenes.denotation_to_row(phrase.denotes)
                assert scenes.denotation_from_row(query.reference, row) == phrase.denotes
        with pytest.raises(ValueError, match="denotes things at"):
            scenes.denotation_from_row(THREE, {"things": [[0, 1]], "cells": [], "background": False})

    def test_roles(self):
        edits = (Edit("remove", STAR), Edit("add", new=Thing((0, 1), "ring", "red", "small", "plain")))
        query = scenes.make_query(random.Random(0), THREE, edits, HEART)
        roles = {
            "remove": Denotation(things=(STAR,)),
            "add": Denotation(cells=(CELLS[1],)),
            "kept": Denotation(things=(HEART,)),
            "landmark": Denotation(things=(RING,)),
            "background": Denotation(background=True),
            "new": Denotation(),
        }
        for name, denotes in roles.items():
            assert scenes.role(query, denotes) == name
        assert scenes.role(query, Denotation(cells=(STAR.cell,))) == "remove"
        assert scenes.role(query, Denotation(things=THREE.things)) == "landmark"
