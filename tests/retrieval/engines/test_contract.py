"""What every engine promises: the same answers to the same questions."""

import json
import threading
import time

import pytest
import torch

from contextcir.retrieval.engines.base import VectorIndex, measure_recall, row_digests
from contextcir.retrieval.engines.exact import ExactIndex
from contextcir.retrieval.filters import Condition, parse_filters
from tests.retrieval.engines.conftest import ENGINES
from tests.retrieval.engines.rows import DIM, FACTS, IDS, QUERY, ROUNDING, SCORES, VECTORS, ids_of, ladder, unit

pytestmark = pytest.mark.parametrize("place", ENGINES, indirect=True)


def test_the_best_come_first_with_their_dot_products(index, place):
    assert isinstance(index, VectorIndex)
    index.add(IDS[:40], VECTORS[:40])
    index.add(IDS[40:], VECTORS[40:])
    assert len(index) == 70 and index.size_in_bytes() >= (0 if place.engine in ("int8", "binary") else 70 * DIM * 2)
    for _ in range(2):
        found = index.search(torch.cat([QUERY, -QUERY]), 5)
        assert ids_of(found) == [IDS[:5], IDS[:-6:-1]]
        assert [score for _, score in found[0]] == pytest.approx(SCORES[:5], abs=ROUNDING)
        assert [score for _, score in found[1]] == pytest.approx([-score for score in SCORES[:-6:-1]], abs=ROUNDING)
        index.build()
        index.build()  # once more does no harm
    assert index.exact is (place.engine == "exact") and index.size_in_bytes() > 0
    assert index.engine == place.engine.removesuffix("-s3")
    assert json.loads(json.dumps(index.settings)) == index.settings


def test_adding_an_id_again_replaces_vector_and_facts(index):
    index.add(IDS, VECTORS, FACTS)
    index.build()
    again = [IDS[-1], "another", IDS[0]]
    vectors = torch.stack([ladder(QUERY[0], [0.99])[0], ladder(QUERY[0], [0.97])[0], -QUERY[0]])
    index.add(again, vectors, {"size": [1, 2, 3]})
    assert len(index) == 71
    assert ids_of(index.search(QUERY, 3)) == [[IDS[-1], "another", IDS[1]]]
    assert ids_of(index.search(-QUERY, 1)) == [[IDS[0]]]
    assert ids_of(index.search(QUERY, 9, parse_filters(["size>=1"]))) == [[IDS[-1], "another", IDS[0]]]
    assert IDS[0] not in index.search(QUERY, 99, parse_filters(["new=1"]))[0]  # what was known of it before is gone
    assert len(index.search(QUERY, 99, parse_filters(["new=1"]))[0]) == 34


def test_removed_ids_are_not_found(index):
    index.add(IDS, VECTORS, FACTS)
    index.build()
    with pytest.raises(ValueError, match="'nobody'"):
        index.remove([IDS[0], "nobody"])
    assert len(index) == 70
    index.remove([IDS[0], IDS[2]])
    assert len(index) == 68 and ids_of(index.search(QUERY, 2)) == [[IDS[1], IDS[3]]]
    index.remove(IDS[1:2] + IDS[3:])
    assert len(index) == 0 and index.search(QUERY, 2) == [[]]
    index.add(IDS[:1], VECTORS[:1])
    assert ids_of(index.search(QUERY, 2)) == [[IDS[0]]]


@pytest.mark.parametrize("built", [False, True])
def test_filters_come_first(index, built):
    index.add(IDS, VECTORS, FACTS)
    if built:
        index.build()
    texts = ["colour=red", "colour=red|Green", "colour!=red", "colour!=red|blue", "colour>a", "colour<=Green"]
    texts += [
        "colour=7",
        "colour=7|red",
        "colour!=7|red",
        "price<1.5",
        "price<=1.5",
        "price>6",
        "price>=6",
        "price=0.1",
    ]
    texts += ["price!=0", "price=cheap", "price>cheap", "new=true", "new=0", "new!=true", "unknown=1", "unknown!=x"]
    wanted = [parse_filters([text]) for text in texts]
    wanted += [parse_filters(["colour=red", "price>2", "new=false"]), [Condition("colour", "=", ("7",))]]
    for where in wanted:
        good = [row for row in range(70) if all(condition.holds(FACTS[condition.column][row]) for condition in where)]
        for query, order in ((QUERY, good), (-QUERY, good[::-1])):
            assert ids_of(index.search(query, 4, where)) == [[IDS[row] for row in order[:4]]], where
        assert len(index.search(QUERY, 99, where)[0]) == len(good)
    assert any(len(index.search(QUERY, 99, where)[0]) == 0 for where in wanted)


def test_a_narrow_filter_among_many_rows_finds_all_of_its_own(index):
    rows = unit(1500, seed=3)
    index.add([f"{row}" for row in range(1500)], rows, {"rare": [row % 300 == 0 for row in range(1500)]})
    index.build()
    best = (rows[::300] @ QUERY[0]).argsort(descending=True)
    assert ids_of(index.search(QUERY, 10, parse_filters(["rare=true"]))) == [[f"{300 * int(row)}" for row in best]]


def test_a_column_that_is_not_there_is_named(index):
    for _ in range(2):
        with pytest.raises(ValueError, match="'size'"):
            index.search(QUERY, 1, parse_filters(["size<3"]))
        index.add(IDS, VECTORS, FACTS)
    with pytest.raises(ValueError, match="colour, new, price, unknown"):
        index.search(QUERY, 1, parse_filters(["colour=red", "id=1"]))


def test_bad_vectors_are_named_and_none_is_added(index):
    index.add(IDS[:2], VECTORS[:2])

    def broken(row, value):
        vectors = VECTORS[:5].clone()
        vectors[row] = value
        return vectors

    for ids, vectors, words in [
        (IDS[:5], broken(3, torch.nan), ["3", IDS[3], "NaN"]),
        (IDS[:5], broken(4, torch.inf), ["4", IDS[4], "infinity"]),
        (IDS[:5], broken(2, 0), ["2", IDS[2], "zero"]),
        (IDS[:5], unit(5, dim=DIM + 8), [IDS[0], f"{DIM + 8}", f"{DIM}"]),
        ([*IDS[:4], IDS[1]], VECTORS[:5], ["4", IDS[1], "twice"]),
        (IDS[:4], VECTORS[:5], ["4", "5"]),
        (IDS[:1], VECTORS[0], [f"({DIM},)"]),
    ]:
        with pytest.raises(ValueError) as error:
            index.add(ids, vectors)
        assert all(word in str(error.value) for word in words), error.value
    assert len(index) == 2 and ids_of(index.search(QUERY, 9)) == [IDS[:2]]


def test_bad_facts_are_named_and_those_that_are_not_finite_are_none(index):
    for facts, words in [
        ({"price": [1]}, ["price", "1", "2"]),
        ({"tags": ["a", ["b"]]}, ["tags", IDS[1], "list"]),
        ({"day": [{}, "b"]}, ["day", IDS[0], "dict"]),
    ]:
        with pytest.raises(ValueError) as error:
            index.add(IDS[:2], VECTORS[:2], facts)
        assert all(word in str(error.value) for word in words), error.value
    index.add(IDS[:3], VECTORS[:3], {"price": [float("nan"), float("inf"), 3]})
    assert ids_of(index.search(QUERY, 9, parse_filters(["price!=0"]))) == [[IDS[2]]]


def test_an_empty_index_finds_nothing(index):
    index.build()
    index.add([], torch.empty(0, DIM))
    assert len(index) == 0 and index.search(torch.cat([QUERY, QUERY]), 3) == [[], []] and index.digests() == {}
    with pytest.raises(ValueError, match="'nobody'"):
        index.remove(["nobody"])


def test_numbers_of_results_and_queries(index):
    index.add(IDS, VECTORS)
    index.build()
    assert ids_of(index.search(QUERY, 1000)) == [IDS]
    assert index.search(torch.empty(0, DIM), 5) == []
    for k in (0, -3):
        with pytest.raises(ValueError, match=f"k={k}"):
            index.search(QUERY, k)
    for queries, word in [(unit(2, dim=DIM + 8), f"{DIM + 8}"), (torch.full((2, DIM), torch.nan), "NaN")]:
        with pytest.raises(ValueError, match=word):
            index.search(queries, 1)


def test_digests_say_what_is_there(index):
    index.add(IDS, VECTORS, FACTS)
    assert index.digests() == dict(zip(IDS, row_digests(VECTORS, FACTS), strict=True))
    before = index.digests([IDS[3], "nobody", IDS[1]])
    assert before == {id_: index.digests()[id_] for id_ in (IDS[1], IDS[3])} and index.digests([]) == {}
    index.add([IDS[1]], VECTORS[1:2], {"colour": ["red"]})
    index.add([IDS[3]], VECTORS[4:5], {name: values[3:4] for name, values in FACTS.items()})
    now = index.digests()
    assert len(now) == 70 and all(now[id_] != before[id_] for id_ in before)


def test_hostile_names_and_values_are_only_text(index):
    hostile = ["'; DROP TABLE gallery; --", '"; DROP TABLE gallery; --', "a`b", "%s %(x)s", "{0} {name}", "a.b\\c"]
    hostile += ["O'Neill", "NULL", "1) OR (1=1", "größe\n日本", "'''", " ", "-- \t$1"]
    vectors = VECTORS[: len(hostile)]
    index.add(hostile, vectors, {name: hostile for name in hostile})
    index.build()
    assert ids_of(index.search(QUERY, 99)) == [hostile]
    for row, name in enumerate(hostile):
        assert ids_of(index.search(QUERY, 9, [Condition(name, "=", (hostile[-1 - row],))])) == [[hostile[-1 - row]]]
        assert len(index.search(QUERY, 99, [Condition(name, "!=", (name, "x"))])[0]) == len(hostile) - 1
    assert index.digests(hostile[:3]).keys() == set(hostile[:3])
    with pytest.raises(ValueError):
        index.search(QUERY, 1, [Condition("id = '' OR 1=1 --", "=", ("",))])
    index.remove(hostile[:2])
    assert ids_of(index.search(QUERY, 1)) == [hostile[2:3]] and len(index) == len(hostile) - 2


def test_threads_search_while_another_adds(index):
    steps = [0.3 - 0.001 * row for row in range(600)]
    rows, true = ladder(QUERY[0], steps, seed=5), {f"more {row}": step for row, step in enumerate(steps)}
    index.add(IDS[:20], VECTORS[:20], {"old": [True] * 20})
    index.build()
    errors, seen, done = [], [], threading.Event()

    def look():
        try:
            while not done.is_set():
                found, own = index.search(QUERY, 30), index.search(QUERY, 30, parse_filters(["old=true"]))
                assert ids_of(found)[0][:20] == IDS[:20] == ids_of(own)[0]
                more = dict(found[0][20:])
                assert more == pytest.approx({id_: true[id_] for id_ in more}, abs=ROUNDING)
                assert list(more.values()) == sorted(more.values(), reverse=True)
                seen.append(len(more))
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        while not seen and not errors:  # what there is before the first are added
            time.sleep(0.001)
        for start in range(0, 600, 60):
            names = [f"more {row}" for row in range(start, start + 60)]
            looks = len(seen)
            index.add(names, rows[start : start + 60], {"new": [1] * 60})
            while len(seen) < looks + 2 and not errors:
                time.sleep(0.001)
        index.build()
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not errors and len(index) == 620 and {0, 10} <= set(seen)
    assert set(ids_of(index.search(QUERY, 30))[0][20:]) <= {f"more {row}" for row in range(40)}


def test_recall_among_clusters(index, place):
    centres = unit(40, seed=7, dim=64)
    rows = torch.nn.functional.normalize(centres.repeat(50, 1) + 0.12 * unit(2000, seed=8, dim=64) * 4, dim=1)
    ids = [f"{row}" for row in range(2000)]
    index.add(ids, rows)
    index.build()
    probes = torch.nn.functional.normalize(rows[::100] + 0.2 * unit(20, seed=9, dim=64), dim=1)
    report = measure_recall(index, ExactIndex(ids, rows), probes)
    assert report.num_probes == 20 and report.recall >= 0.95
    assert index.exact == (place.engine == "exact")
