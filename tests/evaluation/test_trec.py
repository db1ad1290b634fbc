"""TREC files: the same numbers by ir-measures as by our own metrics, on every kind of protocol."""

import json
import random
from pathlib import Path
from urllib.parse import unquote

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, R, Success

from contextcir.benchmarks import circo, cirr
from contextcir.benchmarks.base import Benchmark
from contextcir.evaluation.trec import escaped, falling, write_run
from contextcir.retrieval.base import Gallery, Query, Ranking
from contextcir.retrieval.ranking import rank
from tests.benchmarks.conftest import cache, data_root  # noqa: F401 - fixtures
from tests.benchmarks.layouts import golden_embeds, in_gallery_order
from tests.benchmarks.test_circo import example, real  # noqa: F401
from tests.benchmarks.test_circo import mini as circo_folder  # noqa: F401
from tests.benchmarks.test_cirr import mini as cirr_folder  # noqa: F401


def theirs(run: Path, measure) -> dict[str, float]:
    """Query id -> value of a measure of ir-measures, in percent."""
    qrels = list(ir_measures.read_trec_qrels(str(run.with_suffix(".qrels"))))
    found = ir_measures.iter_calc([measure], qrels, ir_measures.read_trec_run(str(run)))
    return {unquote(one.query_id): 100 * one.value for one in found}


def ours(benchmark: Benchmark, ranking: Ranking, metric: str) -> dict[str, float]:
    scores = benchmark.scores(ranking)[metric]
    ids = [query.id for query in benchmark.queries]
    return {id_: score for id_, score in zip(ids, scores.tolist(), strict=True) if not np.isnan(score)}


def same(expected: dict, found: dict) -> None:
    assert found.keys() == expected.keys()
    assert all(found[id_] == pytest.approx(expected[id_], abs=1e-4) for id_ in expected)


def shuffled(benchmark: Benchmark, seed: int = 0) -> Ranking:
    """A ranking at random with scores in which many are equal."""
    generator = random.Random(seed)
    excluded = [query.reference_id if benchmark.exclude_reference else None for query in benchmark.queries]
    orders = [[id_ for id_ in benchmark.gallery.ids if id_ != reference] for reference in excluded]
    candidates = [query.ranked_candidate_ids for query in benchmark.queries]
    for order in (*orders, *candidates):
        generator.shuffle(order)
    return Ranking(
        [query.id for query in benchmark.queries],
        [order[:50] for order in orders],
        scores=[[0.5 - place // 7 for place in range(len(order[:50]))] for order in orders],
        candidate_ids=candidates,
    )


def test_cirr_with_its_excluded_reference_and_subset(cirr_folder, tmp_path):  # noqa: F811
    parts = cirr.load(str(cirr_folder))
    ranking = shuffled(parts[0])
    files = write_run(tmp_path / "run.trec", parts, [ranking], "a name, with %")
    assert [file.name for file in files] == ["run.trec", "run.qrels", "run.subset.trec", "run.subset.qrels"]
    for k in (1, 5, 10, 50):
        same(ours(parts[0], ranking, f"recall@{k}"), theirs(files[0], Success @ k))
    for k in (1, 2, 3):
        same(ours(parts[0], ranking, f"recall_subset@{k}"), theirs(files[2], Success @ k))
    lines = [line.split() for line in files[0].read_text().splitlines()]
    assert {len(line) for line in lines} == {6} and lines[0][-1] == "a%20name,%20with%20%25"
    references = {query.id: query.reference_id for query in parts[0].queries}
    assert not any(references[line[0]] == line[2] for line in lines)


def circo_ap(benchmark: Benchmark, run: Path, k: int) -> dict[str, float]:
    """CIRCO divides by min(targets, k), TREC by all targets."""
    counts = {id_: len(targets) for id_, targets in benchmark.relevance.items()}
    return {id_: value * counts[id_] / min(counts[id_], k) for id_, value in theirs(run, AP @ k).items()}


@pytest.mark.parametrize("protocol", circo.PROTOCOLS)
def test_circo_with_several_targets(circo_folder, protocol, tmp_path):  # noqa: F811
    (loaded,) = circo.load(str(circo_folder), protocol=protocol)
    for ranking in (shuffled(loaded), in_gallery_order(loaded)):
        run, _ = write_run(tmp_path / "run.trec", [loaded], [ranking])
        for k in circo.KS:
            same(ours(loaded, ranking, f"map@{k}"), circo_ap(loaded, run, k))
            same(ours(loaded, ranking, f"recall@{k}"), theirs(run, Success(rel=2) @ k))  # of the main target


def made(queries, gallery_ids, relevance, **options) -> Benchmark:
    gallery = Gallery(gallery_ids, [None] * len(gallery_ids))
    return Benchmark("made", "made/1", gallery, queries, relevance, exclude_reference=False, **options)


def test_ids_with_spaces_ties_and_queries_without_targets(tmp_path):
    ids = ["a b", "a%20b", "c\u3000d", *(f"x{number}" for number in range(9))]
    queries = [Query(f"q {number}", "red") for number in range(3)]
    relevance = {"q 0": {"a b"}, "q 1": {"a%20b", "x3"}, "q 2": set()}
    metrics = {"recall": (1, 2, 3, 12), "recall_share": (1, 3, 12), "map": (12,)}
    benchmark = made(queries, ids, relevance, metrics=metrics, unanswerable=True)
    order = sorted(ids, reverse=True)
    ranking = Ranking(["q 1", "q 2", "q 0"], [order] * 3, scores=[[1.0] * len(ids)] * 3)
    run, _ = write_run(tmp_path / "new" / "run.trec", [benchmark], [ranking])
    lines = [line.split(" ") for line in run.read_text().splitlines()]
    assert [unquote(line[2]) for line in lines if unquote(line[0]) == "q 1"] == order
    assert len({line[2] for line in lines}) == len(ids)
    for k in (1, 2, 3, 12):
        same(ours(benchmark, ranking, f"recall@{k}"), theirs(run, Success @ k))
    for k in (1, 3, 12):
        expected = {id_: value for id_, value in ours(benchmark, ranking, f"recall_share@{k}").items() if id_ != "q 2"}
        found = theirs(run, R @ k)
        same(expected, {id_: found[id_] for id_ in expected})


def test_only_candidates_are_ranked_and_parts_have_files_of_their_own(tmp_path):
    queries = [Query("q", "red", candidate_ids=("b", "a", "c"))]
    benchmark = made(queries, list("abcd"), {"q": {"c"}}, metrics={"recall": (1, 2)}, candidates_only=True)
    ranking = Ranking(["q"], [["d"]], candidate_ids=[["a", "c", "b"]])
    run, _ = write_run(tmp_path / "run.trec", [benchmark], [ranking])
    assert [line.split()[2] for line in run.read_text().splitlines()] == ["a", "c", "b"]
    same(ours(benchmark, ranking, "recall@2"), theirs(run, Success @ 2))
    parts = [made([Query("q", "red")], list("ab"), {"q": {"a"}}, part=part) for part in ("dress", "shirt")]
    rankings = [Ranking(["q"], [["a", "b"]]), Ranking(["q"], [["b", "a"]])]
    files = write_run(tmp_path / "all.txt", parts, rankings)
    assert [file.name for file in files] == ["all.dress.txt", "all.dress.qrels", "all.shirt.txt", "all.shirt.qrels"]
    assert [theirs(file, Success @ 1)["q"] for file in files[::2]] == [100, 0]
    with pytest.raises(ValueError, match="run.trec"):
        write_run(tmp_path / "run.qrels", parts, rankings)


def test_no_targets_no_qrels(tmp_path, cirr_folder):  # noqa: F811
    parts = cirr.load(str(cirr_folder), "test1")
    files = write_run(tmp_path / "run.trec", parts, [in_gallery_order(parts[0])])
    assert [file.name for file in files] == ["run.trec", "run.subset.trec"]


def test_scores_fall_strictly_in_single_precision():
    given = [3.0, 2.0, 2.0, 2.0, float(np.nextafter(np.float32(2), np.float32(0))), 0.0, 0.0, -1.0, -1.0]
    found = np.array([float(f"{score:.9g}") for score in falling(given, len(given))], dtype=np.float32)
    assert (np.diff(found) < 0).all() and np.allclose(found, given, atol=1e-5) and found[1] == 2.0
    assert list(falling(None, 3)) == [-1, -2, -3]
    assert escaped("a\tb c%") == "a%09b%20c%25" and unquote(escaped("a\tb c%")) == "a\tb c%"


def mean(found: dict[str, float]) -> float:
    return sum(found.values()) / len(found)


def test_golden_values_of_cirr(data_root, tmp_path):  # noqa: F811
    expected = json.loads((data_root / "golden/cirr_val_expected.json").read_text())["expected_exact"]
    (loaded,) = cirr.load(str(data_root / "cirr"), check_images=False)
    embeds = golden_embeds(data_root / "golden", "cirr_val_")
    ranking = rank(loaded.queries, loaded.gallery, *embeds, loaded.k, exclude_reference=True)
    whole, _, subset, _ = write_run(tmp_path / "run.trec", [loaded], [ranking])
    for run, name in ((whole, "recall_percent"), (subset, "recall_subset_percent")):
        for k, value in expected[name].items():
            assert mean(theirs(run, Success @ int(k))) == pytest.approx(value, abs=1e-6)


def test_golden_values_of_circo(data_root, real, tmp_path):  # noqa: F811
    (loaded,) = circo.load(str(real), check_images=False)
    (expected,) = json.loads((data_root / "golden/circo_val_expected.json").read_text())["expected"].values()
    content = example(data_root, "val")
    ranking = Ranking(list(content), [list(map(str, ids)) for ids in content.values()])
    run, _ = write_run(tmp_path / "run.trec", [loaded], [ranking])
    for k in circo.KS:
        assert mean(circo_ap(loaded, run, k)) == pytest.approx(100 * expected["mAP"][str(k)], abs=1e-3)
        assert mean(theirs(run, Success(rel=2) @ k)) == pytest.approx(100 * expected["recall"][str(k)], abs=1e-6)
