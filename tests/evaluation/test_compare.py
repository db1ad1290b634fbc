"""Compare result files: differences by hand, the table, and files that cannot be compared."""

import json

import numpy as np
import pytest

from contextcir.evaluation.compare import compare, format_comparison
from contextcir.evaluation.results import side_file
from tests.benchmarks.layouts import refuses

QUERIES = [str(number) for number in range(100)]
SUBSET = "recall_subset@1"  # of the first 50 queries


def hits(count: int) -> list[float]:
    """100 for the first queries, 0 for the rest."""
    return [100.0 * (number < count) for number in range(100)]


def write(path, retrievers, protocol="toy/test", ids=QUERIES):
    """Write a result file and its side file: retriever -> part -> metric -> scores. Every second retriever has its
    queries in reverse order."""
    results, lines = [], []
    for place, (name, parts) in enumerate(retrievers.items()):
        first = next(iter(parts.values()))
        means = {key: float(np.mean([np.nanmean(part[key]) for part in parts.values()])) for key in first}
        results.append({"retriever": name, "metrics": means})
        rows = []
        for part, metrics in parts.items():
            for row, id_ in enumerate(ids):
                scores = {key: None if np.isnan(values[row]) else values[row] for key, values in metrics.items()}
                rows.append({"retriever": name, "part": part, "id": id_, "scores": scores})
        lines += rows[:: -1 if place % 2 else 1]
    path.write_text(json.dumps({"benchmark": "toy", "protocol_id": protocol, "results": results}))
    side_file(path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def files(tmp_path):
    """Before: recall 40, and 50 for the half with candidates. After: recall 60, and 50 for other queries."""
    some = hits(25)[:50] + [np.nan] * 50
    others = hits(25)[49::-1] + [np.nan] * 50
    base, worse, better = ({"recall@1": hits(count), SUBSET: some} for count in (40, 30, 60))
    before = write(tmp_path / "before.json", {"base": {"": base}, "worse": {"": worse}})
    return before, write(tmp_path / "after.json", {"better": {"": better | {SUBSET: others}}})


def test_differences_by_hand(files):
    found = compare(*files)
    assert (found["benchmark"], found["protocol_id"]) == ("toy", "toy/test")
    assert (found["retriever_a"], found["retriever_b"]) == ("base", "better")
    assert (found["path_a"], found["path_b"]) == tuple(map(str, files))
    recall, subset = found["metrics"]["recall@1"], found["metrics"][SUBSET]
    assert (recall["a"], recall["b"], recall["difference"], recall["num_queries"]) == pytest.approx((40, 60, 20, 100))
    half = 1.96 * 100 * (0.2 * 0.8 / 100) ** 0.5  # 20 of 100 queries differ
    assert (recall["low"], recall["high"]) == pytest.approx((20 - half, 20 + half), abs=1.5)
    assert (subset["a"], subset["b"], subset["difference"], subset["num_queries"]) == pytest.approx((50, 50, 0, 50))
    assert subset["low"] < -20 and subset["high"] > 20
    json.dumps(found, allow_nan=False)  # plain numbers


def test_swapped_files_have_the_opposite_sign(files):
    forth, back = compare(*files)["metrics"]["recall@1"], compare(*files[::-1])["metrics"]["recall@1"]
    assert back["difference"] == -forth["difference"]
    assert (back["low"], back["high"]) == pytest.approx((-forth["high"], -forth["low"]))


def test_retrievers_are_chosen_and_queries_matched_by_id(files):
    found = compare(files[0], files[0], "base", "worse")["metrics"]  # the second is in reverse order
    assert (found["recall@1"]["a"], found["recall@1"]["b"]) == pytest.approx((40, 30))
    half = 1.96 * 100 * (0.1 * 0.9 / 100) ** 0.5  # not matched by id, 70 queries would differ
    assert found["recall@1"]["low"] == pytest.approx(-10 - half, abs=1.5)
    assert found["recall_subset@1"] == {"a": 50, "b": 50, "difference": 0, "low": 0, "high": 0, "num_queries": 50}


def test_parts_have_equal_weight_and_are_matched(tmp_path):
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
    refuses(r"before\.json .*recall@1, recall_subset@1, .*less\.json map@5", compare, files[0], less)


def test_the_table_marks_intervals_without_0(files):
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


def test_tables_of_losses_and_of_no_difference(files):
    assert "-20.00 *" in format_comparison(compare(*files[::-1]))
    same = format_comparison(compare(files[0], files[0]))
    assert "+0.00 to +0.00" in same and "+0.00 *" not in same


def test_another_protocol_is_refused(files, tmp_path):
    other = write(tmp_path / "other.json", {"x": {"": {"recall@1": hits(1)}}}, protocol="toy/union")
    refuses(r"before\.json .*toy/test, .*other\.json .*toy/union", compare, files[0], other)
    side_file(other).unlink()  # the protocol is checked first
    refuses("toy/union", compare, files[0], other)


@pytest.mark.fault("G01", "incomplete results are not compared, and not in a card")
def test_incomplete_results_are_refused(files):
    record = json.loads(files[0].read_text())
    files[0].write_text(json.dumps(record | {"incomplete": "More than 5% failed: verifier 8 of 8."}))
    with pytest.raises(ValueError, match="is incomplete. More than 5% failed: verifier"):
        compare(*files)


def test_different_queries_are_refused(files, tmp_path):
    recall = {"recall@1": hits(1)}
    other = write(tmp_path / "other.json", {"x": {"": recall}}, ids=[*QUERIES[:97], "x", "y", "z"])
    refuses(r"other\.queries\.jsonl .*'x' .*'97'", compare, files[0], other)
    fewer = write(tmp_path / "fewer.json", {"x": {"": recall}}, ids=QUERIES[:97])
    for pair in ((files[0], fewer), (fewer, files[0])):
        refuses(r"fewer\.queries\.jsonl .*'97'", compare, *pair)
    dress, shirt = (write(tmp_path / f"{part}.json", {"x": {part: recall}}) for part in ("dress", "shirt"))
    refuses(r"dress\.queries\.jsonl .*'0', .*before", compare, files[0], dress)
    refuses(r"shirt\.queries\.jsonl .*'0' .*'dress'", compare, dress, shirt)
    full = write(tmp_path / "full.json", {"x": {"": {SUBSET: hits(1)}}})  # the first file has 50 of these scores
    refuses("Query 50 of part 0 ", compare, files[0], full)


def test_unknown_retrievers_and_missing_files(files, tmp_path):
    refuses(r"before\.json .*'best'.*'base', 'worse'", compare, *files, retriever_a="best")
    refuses(r"after\.json .*'base'.*'better'", compare, *files, retriever_b="base")
    refuses(r"none\.json .*contextcir benchmark --output.*Record\.save", compare, files[0], tmp_path / "none.json")
    side_file(files[1]).unlink()
    refuses(r"after\.queries\.jsonl .*after\.json.*contextcir benchmark --output", compare, *files)


def test_files_of_another_kind_are_refused(files):
    for text, message in (
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"results": []}', "KeyError 'benchmark'"),
        ('{"results": [{"name": "x"}]}', "KeyError 'retriever'"),
        ('{"benchmark": "toy", "protocol_id": "toy/test", "results": []}', "contextcir benchmark --output"),
    ):
        files[0].write_text(text)
        refuses(rf"before\.json .*{message}", compare, *files)


def test_broken_side_files_are_refused(files):
    side = side_file(files[0])
    good = side.read_text()
    lines = good.splitlines(keepends=True)
    for line, message in (
        ("{\n", r"line 201: .*'\{'.* retriever, part, id and scores"),
        ('{"retriever": "base", "part": ""}\n', "line 201: .*retriever, part, id and scores"),
        ("[]\n", r"line 201: .*'\[\]'"),
        ('{"retriever": "base", "part": "", "id": "x", "scores": {"recall@1": "high"}}\n', "line 201: .*high"),
        (
            '{"retriever": "base", "part": "", "id": "x", "scores": {"map@5": 1}}\n',
            "line 201: .* map@5, .* recall@1, recall_subset@1",
        ),
        (lines[3], "line 201: .*'3' .*''"),
    ):
        side.write_text(good + line)
        refuses(rf"before\.queries\.jsonl, {message}", compare, *files)
    side.write_text("".join(lines[100:]))
    refuses(r"before\.queries\.jsonl .*'base'.*before\.json", compare, *files)


def test_a_side_file_of_another_run_is_refused(files, tmp_path):
    side_file(files[1]).write_text(side_file(files[0]).read_text().replace('"base"', '"better"'))
    refuses(r"after\.queries\.jsonl .*recall@1 40\.00 .*'better', .*after\.json .*60\.00", compare, *files)
