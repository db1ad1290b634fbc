"""Conditions on the facts of images, as people write them and as they hold."""

import pytest
import torch

from contextcir.retrieval.filters import Condition, as_conditions, matches, parse_filters, scalar


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("colour=red", ("colour", "=", ("red",))),
        (" colour != red | blue ", ("colour", "!=", ("red ", " blue"))),
        ("colour=red|blue|7", ("colour", "=", ("red", "blue", 7))),
        ("price<20", ("price", "<", (20,))),
        ("price<=-2.5", ("price", "<=", (-2.5,))),
        ("price>1e3", ("price", ">", (1000.0,))),
        ("price>=0", ("price", ">=", (0,))),
        ('size="42"', ("size", "=", ("42",))),
        ('word="a|b"', ("word", "=", ("a|b",))),
        ("new=TRUE", ("new", "=", (True,))),
        ("new=false", ("new", "=", (False,))),
        ("name=nan", ("name", "=", ("nan",))),
        ("name=Infinity", ("name", "=", ("Infinity",))),
        ("formula=a=b", ("formula", "=", ("a=b",))),
        ("empty=", ("empty", "=", ("",))),
        ("two words=x\ny", ("two words", "=", ("x\ny",))),
    ],
)
def test_conditions_are_read(text, condition):
    found = parse_filters([text])[0]
    assert (found.column, found.operator, found.values) == condition
    assert [type(value) for value in found.values] == [type(value) for value in condition[2]]


@pytest.mark.parametrize("text", ["colour", "=red", "", "<3", "a~b"])
def test_what_is_no_condition_is_named(text):
    with pytest.raises(ValueError, match="filter"):
        parse_filters([text])


@pytest.mark.parametrize(
    ("column", "sign", "values"),
    [("a", "~", (1,)), ("a", "=", ()), ("a", "<", (1, 2)), ("a", "=", (None,)), ("a", "=", (float("nan"),))]
    + [("a", ">", (float("inf"),)), ("a", "=", (["b"],)), ("a", "=", (10**400,))],
)
def test_conditions_that_make_no_sense(column, sign, values):
    with pytest.raises(ValueError):
        Condition(column, sign, values)


def test_conditions_of_a_mapping():
    given = {"colour": ["red", "blue"], "price": 3, "new": True}
    assert as_conditions(given) == parse_filters(["colour=red|blue", "price=3", "new=true"])
    assert as_conditions(None) == [] and as_conditions(parse_filters(["a=b"])) == parse_filters(["a=b"])
    with pytest.raises(ValueError, match="colour"):
        as_conditions({"colour": []})


def test_numbers_and_texts_are_not_compared():
    values = ["7", 7, 7.0, True, None, float("nan"), ["7"], "red"]
    held = {
        "x=7": [1, 2],
        'x="7"': [0],
        "x!=7": [3],
        "x!=red": [0],
        "x!=red|7": [0, 3],
        "x<8": [1, 2, 3],
        "x>a": [7],
        "x=true": [3],
        "x=1": [3],
    }
    for text, places in held.items():
        (condition,) = parse_filters([text])
        assert [place for place, value in enumerate(values) if condition.holds(value)] == places, text


def test_all_conditions_must_hold():
    facts = {"a": [1, 2, 3, None], "b": ["x", "x", "y", "x"]}
    assert matches(facts, parse_filters(["a>1", "b=x"]), 4).tolist() == [False, True, False, False]
    assert torch.equal(matches({}, [], 2), torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="'c'.*a, b"):
        matches(facts, parse_filters(["c=1"]), 4)


def test_what_one_can_filter_by():
    assert [scalar(value) for value in ("a", 0, 1.5, True)] == ["a", 0, 1.5, True]
    assert [scalar(value) for value in (None, float("nan"), float("-inf"), [1], 10**400)] == [None] * 5
