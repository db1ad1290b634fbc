"""Comparing result files: differences by hand, what marks them, and everything that does not compare."""

import json

import numpy as np
import pytest

from contextcir.benchmarks.base import Benchmark
from contextcir.evaluation.compare import compare, format_comparison, side_file
from contextcir.evaluation.results import query_lines, summarise
from contextcir.retrieval.base import Gallery, Query, Ranking

QUERIES = [str(number) for number in range(100)]
METRICS = ("recall@1", "recall_subset@1")


def hits(count: int) -> list[float]:
    """100 for the first queries, 0 for the rest."""
    return [100.0 * (number < count) for number in range(100)]


def write(path, retrievers, protocol="toy/test", ids=QUERIES, means=None):
    """A result file and its side file: retriever -> part -> metric -> scores; the queries' order is turned round for
    every second retriever."""
    results, lines = [], []
    for place, (name, parts) in enumerate(retrievers.items()):
        first = next(iter(parts.values()))
        metrics = {key: float(np.mean([np.nanmean(part[key]) for part in parts.values()])) for key in first}
        results.append({"retriever": name, "metrics": {**metrics, **(means or {})}, "parts": {}})
        rows = [
            {
                "retriever": name,
                "part": part,
                "id": id_,
                "scores": {key: None if np.isnan(values[row]) else values[row] for key, values in scores.items()},
                "top": ["an image"],
            }
            for part, scores in parts.items()
            for row, id_ in enumerate(ids)
        ]
        lines += rows[:: -1 if place % 2 else 1]
    path.write_text(json.dumps({"benchmark": "toy", "protocol_id": protocol, "results": results}))
    path.with_suffix(".queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def files(tmp_path):
    """Before: recall 40, and 50 over the half that has candidates. After: recall 60; and 50 again, of others."""
    some = [100.0 if number < 25 else 0.0 for number in range(50)] + [np.nan] * 50
    others = [0.0 if number < 25 else 100.0 for number in range(50)] + [np.nan] * 50
    before = write(
        tmp_path / "before.json",
        {
            "base": {"": dict(zip(METRICS, (hits(40), some), strict=True))},
            "worse": {"": dict(zip(METRICS, (hits(30), some), strict=True))},
        },
    )
    after = write(tmp_path / "after.json", {"better": {"": dict(zip(METRICS, (hits(60), others), strict=True))}})
    return before, after


def test_differences_by_hand(files):
    found = compare(*files)
    assert {key: found[key] for key in ("benchmark", "protocol_id", "retriever_a", "retriever_b")} == {
        "benchmark": "toy",
        "protocol_id": "toy/test",
        "retriever_a": "base",
        "retriever_b": "better",
    }
    assert (found["path_a"], found["path_b"]) == tuple(map(str, files))
    recall, subset = (found["metrics"][key] for key in METRICS)
    assert (recall["a"], recall["b"], recall["difference"], recall["num_queries"]) == pytest.approx((40, 60, 20, 100))
    half = 1.96 * 100 * (0.2 * 0.8 / 100) ** 0.5  # 20 of 100 queries differ
    assert (recall["low"], recall["high"]) == pytest.approx((20 - half, 20 + half), abs=1.5)
    assert (subset["a"], subset["b"], subset["difference"], subset["num_queries"]) == pytest.approx((50, 50, 0, 50))
    assert subset["low"] < -20 and subset["high"] > 20
    json.dumps(found, allow_nan=False)  # plain numbers


def test_the_other_way_round_has_the_other_sign(files):
    forth, back = compare(*files)["metrics"]["recall@1"], compare(*files[::-1])["metrics"]["recall@1"]
    assert back["difference"] == -forth["difference"]
    assert (back["low"], back["high"]) == pytest.approx((-forth["high"], -forth["low"]))


def test_retrievers_are_chosen_and_queries_matched_by_id(files):
    found = compare(files[0], files[0], "base", "worse")["metrics"]  # the second stands in the opposite order
    assert (found["recall@1"]["a"], found["recall@1"]["b"]) == pytest.approx((40, 30))
    half = 1.96 * 100 * (0.1 * 0.9 / 100) ** 0.5  # unmatched, 70 queries would differ
    assert found["recall@1"]["low"] == pytest.approx(-10 - half, abs=1.5)
    assert found["recall_subset@1"] == {"a": 50, "b": 50, "difference": 0, "low": 0, "high": 0, "num_queries": 50}


def test_parts_weigh_the_same_and_are_kept_apart(tmp_path):
    paths = [
        write(tmp_path / f"{name}.json", {name: {"dress": {"map@5": hits(first)}, "shirt": {"map@5": hits(second)}}})
        for name, first, second in (("a", 10, 80), ("b", 10, 100))
    ]
    found = compare(*paths)["metrics"]["map@5"]
    assert (found["a"], found["b"], found["difference"], found["num_queries"]) == pytest.approx((45, 55, 10, 200))
    half = 1.96 * 100 * (0.2 * 0.8 / 100) ** 0.5 / 2
    assert (found["low"], found["high"]) == pytest.approx((10 - half, 10 + half), abs=1)


def test_only_metrics_of_both_are_compared(files, tmp_path):
    more = write(tmp_path / "more.json", {"more": {"": {"map@5": hits(3), "recall@1": hits(50)}}})
    assert list(compare(files[0], more)["metrics"]) == ["recall@1"]
    less = write(tmp_path / "less.json", {"less": {"": {"map@5": hits(3)}}})
    with pytest.raises(ValueError, match=r"metrics recall@1, recall_subset@1, .*less\.json map@5: none in common"):
        compare(files[0], less)


def test_it_reads_what_benchmark_py_writes(tmp_path):
    gallery = Gallery(list("abcd"), list("abcd"))
    queries = [Query(id_, "change", reference_id="a", candidate_ids=candidates) for id_, candidates in CANDIDATES]
    part = Benchmark(
        "toy", "toy/test", gallery, queries, {"q": {"b"}, "r": {"c"}}, True, {"recall": (1, 2), "recall_subset": (1,)}
    )
    paths = []
    for name, ranked in (("one", ["cbd", "bcd"]), ("two", ["bcd", "cbd"])):
        ranking = Ranking(["q", "r"], [list(ids) for ids in ranked], candidate_ids=[["c", "b"], []])
        scores = [part.scores(ranking)]
        path = tmp_path / f"{name}.json"
        record = {"benchmark": "toy", "protocol_id": "toy/test", "results": [summarise(name, [part], scores)]}
        path.write_text(json.dumps(record))
        lines = query_lines(name, [part], [ranking], scores)
        side_file(path).write_text("".join(json.dumps(line) + "\n" for line in lines))
        paths.append(path)
    found = compare(*paths)["metrics"]
    assert {key: (value["difference"], value["num_queries"]) for key, value in found.items()} == {
        "recall@1": (100, 2),
        "recall@2": (0, 2),
        "recall_subset@1": (0, 1),
    }


CANDIDATES = [("q", ["b", "c"]), ("r", [])]


def test_the_table_marks_what_excludes_zero(files):
    text = format_comparison(compare(*files))
    lines = text.splitlines()
    assert lines[0] == "toy/test: the same queries, paired"
    assert lines[1] == f"A: base ({files[0]})"
    assert lines[2] == f"B: better ({files[1]})"
    header, recall, subset = lines[4:7]
    assert header.split() == ["A", "B", "B", "-", "A", "95", "%", "interval", "queries"]
    assert recall.split()[:5] == ["recall@1", "40.00", "60.00", "+20.00", "*"]
    assert recall.split()[-1] == "100"
    assert subset.split()[:4] == ["recall_subset@1", "50.00", "50.00", "+0.00"]
    assert "*" not in subset
    assert len(header) == len(recall) == len(subset)


def test_a_table_of_losses_and_of_nothing(files):
    assert "-20.00 *" in format_comparison(compare(*files[::-1]))
    same = format_comparison(compare(files[0], files[0]))
    assert "+0.00 to +0.00" in same and "+0.00 *" not in same


def test_another_protocol_is_refused(files, tmp_path):
    other = write(tmp_path / "other.json", {"x": {"": {"recall@1": hits(1)}}}, protocol="toy/union")
    with pytest.raises(ValueError, match=r"before\.json was measured by toy/test, .*other\.json by toy/union"):
        compare(files[0], other)
    side_file(other).unlink()  # and said before anything is asked for that would not help
    with pytest.raises(ValueError, match="toy/union"):
        compare(files[0], other)


def test_other_queries_are_refused(files, tmp_path):
    fewer = write(tmp_path / "fewer.json", {"x": {"": {"recall@1": hits(1)}}}, ids=[*QUERIES[:97], "x", "y", "z"])
    with pytest.raises(ValueError, match=r"fewer\.queries\.jsonl has no scores of 'x' for the query '97', which"):
        compare(files[0], fewer)
    fewer = write(tmp_path / "fewer.json", {"x": {"": {"recall@1": hits(1)}}}, ids=QUERIES[:97])
    for pair in ((files[0], fewer), (fewer, files[0])):
        with pytest.raises(ValueError, match=r"fewer\.queries\.jsonl .* the query '97'"):
            compare(*pair)
    parted = write(tmp_path / "parted.json", {"x": {"dress": {"recall@1": hits(1)}}})
    with pytest.raises(ValueError, match=r"parted\.queries\.jsonl .* the query '0', which"):
        compare(files[0], parted)
    with pytest.raises(ValueError, match=r"before\.queries\.jsonl .* the query '0' of part 'dress'"):
        compare(parted, write(tmp_path / "before.json", {"x": {"shirt": {"recall@1": hits(1)}}}))


def test_a_score_in_only_one_of_the_two_is_refused(files, tmp_path):
    full = write(tmp_path / "full.json", {"x": {"": {"recall_subset@1": hits(1)}}})
    with pytest.raises(ValueError, match="Query 50 of part 0 has a score in one of the two only"):
        compare(files[0], full)


def test_unknown_retrievers_and_missing_files(files, tmp_path):
    with pytest.raises(ValueError, match=r"before\.json has no result of 'best', it has 'base', 'worse'"):
        compare(*files, retriever_a="best")
    with pytest.raises(ValueError, match=r"after\.json has no result of 'base', it has 'better'"):
        compare(*files, retriever_b="base")
    with pytest.raises(ValueError, match=r"none\.json is missing\. Write it with benchmark\.py --output"):
        compare(files[0], tmp_path / "none.json")
    side_file(files[1]).unlink()
    with pytest.raises(ValueError, match=r"after\.queries\.jsonl is missing: .*benchmark\.py --output .*after\.json"):
        compare(*files)


def test_files_of_another_kind_are_refused(files):
    for text, message in (
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"results": []}', "KeyError 'benchmark'"),
        ('{"results": [{"name": "x"}]}', "KeyError 'retriever'"),
        ('{"benchmark": "toy", "protocol_id": "toy/test", "results": []}', "has no results"),
    ):
        files[0].write_text(text)
        with pytest.raises(ValueError, match=rf"before\.json .*{message}"):
            compare(*files)


def test_broken_side_files_are_refused(files):
    side = side_file(files[0])
    good = side.read_text()
    lines = good.splitlines(keepends=True)
    for line, message in (
        ("{\n", r"line 201: got '\{', expected an object with retriever, part, id and scores"),
        ('{"retriever": "base", "part": ""}\n', "line 201: got"),
        ("[]\n", r"line 201: got '\[\]'"),
        ('{"retriever": "base", "part": "", "id": "x", "scores": {"recall@1": "high"}}\n', "line 201: got"),
        (
            '{"retriever": "base", "part": "", "id": "x", "scores": {"map@5": 1}}\n',
            "line 201: got the metrics map@5, e",
        ),
        (lines[3], "line 201: the query '3' of part '' is there twice"),
    ):
        side.write_text(good + line)
        with pytest.raises(ValueError, match=rf"before\.queries\.jsonl, {message}"):
            compare(*files)
    side.write_text("".join(lines[100:]))
    with pytest.raises(ValueError, match=r"before\.queries\.jsonl has no scores of 'base', which"):
        compare(*files)


def test_a_side_file_of_another_run_is_refused(files, tmp_path):
    side_file(files[1]).write_text(side_file(files[0]).read_text().replace('"base"', '"better"'))
    with pytest.raises(ValueError, match=r"after\.queries\.jsonl gives recall@1 40\.00 for 'better', .* says 60\.00"):
        compare(*files)
