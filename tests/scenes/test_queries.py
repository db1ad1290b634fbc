"""Edits, their texts, random queries, and families of training queries."""

import random
from dataclasses import replace

import pytest

from contextcir import scenes
from contextcir.scenes import Edit, Scene, apply, sample_family
from contextcir.scenes.edits import EDIT_OF, KINDS, changed_attributes
from contextcir.scenes.phrases import refer_by_adjectives
from contextcir.scenes.world import COLOURS, SHAPES
from tests.scenes.small_scenes import RING, STAR, TWO

BLUE = replace(STAR, colour="blue")


def test_the_data_of_a_seed_do_not_change():
    """Whoever changes the data of a seed must raise VERSION, so that numbers of two data sets are not compared."""
    assert (scenes.VERSION, scenes.fingerprint()) == ("3", "eff578d15df1ebe4")


def test_edits():
    edits = [Edit("recolour", STAR, BLUE), Edit("remove", RING), Edit("background", background="sea")]
    assert apply(TWO, edits) == Scene("sea", (BLUE,))
    assert apply(TWO, []) == TWO
    assert [changed_attributes(edit) for edit in edits] == [["colour"], list(vars(RING)), []]


@pytest.mark.parametrize(
    "edit, message", [(Edit("remove", BLUE), "blue"), (Edit("add", new=replace(STAR, cell=RING.cell)), r"\(1, 1\)")]
)
def test_impossible_edits(edit, message):
    with pytest.raises(ValueError, match=message):
        apply(TWO, [edit])


@pytest.mark.parametrize("count", [0, 6])
def test_number_of_edits_is_bounded(count):
    with pytest.raises(ValueError, match=f"1.*5.*{count}"):
        scenes.sample_query(random.Random(0), count)


def test_edits_of_queries(queries):
    """The order of edits does not matter, each edit changes something, and all kinds occur."""
    kinds = set()
    for query in queries:
        assert apply(query.reference, reversed(query.edits)) == query.target
        assert 1 <= len(query.target.things) <= 6
        assert len({thing.cell for thing in query.target.things}) == len(query.target.things)
        for edit in query.edits:
            assert apply(query.reference, [edit]) != query.reference
            kinds.add(edit.kind)
    assert kinds == set(KINDS)


def test_trees_and_spans(queries):
    """Trees spell the text. Spans are exact and breadth first."""
    for query in queries:
        words = [leaf.word for sentence in query.sentences for leaf in sentence.leaves()]
        assert "".join(words) == query.text.replace(" ", "")
        assert all(sentence.ptb().count("(") == sentence.ptb().count(")") for sentence in query.sentences)
        assert all(query.text[phrase.start : phrase.end] == phrase.text for phrase in query.noun_phrases)
        first_sentence = [p for p in query.noun_phrases if p.start < query.text.find(". ")] or query.noun_phrases
        for place, outer in enumerate(first_sentence):
            inside = [p for p in first_sentence[:place] if outer.start <= p.start and p.end <= outer.end]
            assert all((p.start, p.end) == (outer.start, outer.end) for p in inside)


def test_denoted_things_exist_and_have_the_named_shape(queries):
    for query, phrase in ((one, phrase) for one in queries for phrase in one.noun_phrases):
        assert set(phrase.denotes.things) <= set(query.reference.things)
        if phrase.is_leaf and len(phrase.denotes.things) == 1:
            named = [shape for shape in ("circle", "square", "star", "ring") if shape in phrase.text]
            assert "squares" in phrase.text or named in ([], [phrase.denotes.things[0].shape])


def test_adjectives_identify_a_thing_unless_another_looks_the_same(queries):
    rng = random.Random(5)
    for scene in (query.reference for query in queries):
        for thing in scene.things:
            twins = [other for other in scene.things if other.look() == thing.look()]
            assert (refer_by_adjectives(rng, scene, thing) is None) == (len(twins) > 1)


def test_texts_vary():
    rng = random.Random(0)
    assert len({scenes.make_query(rng, TWO, [Edit("recolour", STAR, BLUE)]).text for _ in range(300)}) > 100
    with pytest.raises(ValueError, match="'add'"):
        scenes.make_query(rng, TWO, [Edit("add")])


@pytest.fixture(scope="module")
def families():
    rng = random.Random(2)
    return [sample_family(rng) for _ in range(600)]


def are_siblings(family):
    return len({query.reference for query in family}) == 1


def test_training_excludes_what_is_held_out(families):
    queries = [query for family in families for query in family]
    things = [thing for query in queries for scene in (query.reference, query.target) for thing in scene.things]
    pairs = {(thing.shape, thing.colour) for thing in things}
    assert {shape for shape, _ in pairs} == set(SHAPES) and {colour for _, colour in pairs} == set(COLOURS)
    assert len(pairs) == len(SHAPES) * len(COLOURS) - len(SHAPES)  # all pairs but one for each shape
    assert not any(scenes.has_held_out_word(query.text) for query in queries)
    assert {len(query.edits) for query in queries} == {1, 2}


def test_some_texts_name_a_thing_to_keep(families):
    kept = [query for family in families for query in family if query.kept]
    assert 100 < len(kept) < 400
    for query in kept:
        assert query.kept in query.reference.things and query.kept in query.target.things
        assert any(phrase.denotes.things == (query.kept,) for phrase in query.noun_phrases)
    texts = " ".join(query.text.lower() for query in kept)
    assert "do not" in texts and "alone" in texts and "as it is" in texts


def test_siblings_change_different_things_in_the_same_way(families):
    siblings = [family for family in families if are_siblings(family)]
    assert 200 < len(siblings) < 400
    assert {len(family) for family in siblings} == {2, 3, 4}
    names = {"recolour": "colour", "resize": "size", "repattern": "pattern", "move": "cell"}
    kinds = set()
    for family in siblings:
        edits = [edit for query in family for edit in query.edits]
        assert len(edits) == len(family) == len({edit.old for edit in edits})
        assert len({query.target for query in family} | {family[0].reference}) == len(family) + 1
        (kind,) = {edit.kind for edit in edits}
        assert kind not in names or len({getattr(edit.new, names[kind]) for edit in edits}) == 1
        kinds.add(kind)
    assert kinds == {*names, "replace", "remove"}


def test_round_trips(families):
    exchanged = moved = 0
    for whole, *part, near, back in (family for family in families if not are_siblings(family)):
        assert len(part) == (len(whole.edits) > 1)
        for query in part:
            assert query.reference == whole.reference and query.target != whole.target
            assert 0 < len(query.edits) < len(whole.edits) and set(query.edits) < set(whole.edits)
        assert (back.reference, back.target) == (whole.target, whole.reference)
        assert len(back.edits) == len(whole.edits)
        assert near.reference == whole.target and near.target != whole.target
        assert len(near.edits) <= 2
        moved += near.edits[0].kind == "move"
        if len(near.edits) == 2:
            exchanged += 1
            before, after = ([getattr(edit, name) for edit in near.edits] for name in ("old", "new"))
            (changed,) = [name for name in EDIT_OF if getattr(before[0], name) != getattr(after[0], name)]
            values = [[getattr(thing, changed) for thing in things] for things in (before, after)]
            assert values[0] == values[1][::-1]
    assert exchanged > 60 and moved > 60
