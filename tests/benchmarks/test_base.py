"""Protocols against hand counts and the values of other evaluation code; faulty rankings and data are refused."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from contextcir.benchmarks.base import Benchmark, evenly_spaced, means_by_tag
from contextcir.retrieval.base import Gallery, Query, Ranking
from contextcir.retrieval.ranking import rank
from tests.benchmarks.layouts import golden_embeds, refuses

IDS = list("abcdefgh")


def tiny_benchmark(**changes):
    arguments = dict(
        name="tiny",
        protocol_id="tiny/test",
        gallery=Gallery(IDS, [None] * len(IDS)),
        queries=[
            Query("q1", "a text", reference_id="a", candidate_ids=tuple("abcd"), tags=("short", "easy")),
            Query("q2", "a text", reference_id="b", candidate_ids=tuple("bcde"), tags=("short",)),
        ],
        relevance={"q1": {"b"}, "q2": {"c", "h"}},
        exclude_reference=True,
        metrics={"recall": (1, 2, 4), "recall_subset": (1, 2, 3), "map": (2, 4)},
    )
    return Benchmark(**(arguments | changes))


def tiny_ranking(**changes):
    arguments = dict(
        query_ids=["q2", "q1"],  # any order
        gallery_ids=[list("dcah"), list("cbde")],
        scores=[[4.0, 3.0, 2.0, 1.0]] * 2,
        candidate_ids=[list("dec"), list("bcd")],
    )
    return Ranking(**(arguments | changes))


def test_scores_by_hand():
    assert tiny_benchmark().evaluate(tiny_ranking()) == pytest.approx(
        {
            "recall@1": 0,
            "recall@2": 100,
            "recall@4": 100,
            "recall_subset@1": 50,
            "recall_subset@2": 50,
            "recall_subset@3": 100,
            "map@2": 100 * (1 / 2 + (1 / 2) / 2) / 2,
            "map@4": 100 * (1 / 2 + (1 / 2 + 2 / 4) / 2) / 2,
        }
    )
    scores = tiny_benchmark().scores(tiny_ranking())
    assert scores["recall@2"].tolist() == [100, 100] and scores["recall_subset@1"].tolist() == [100, 0]  # q1, q2
    assert tiny_benchmark().unit_ids == ["q1", "q2"]


class Recorder:
    """A retriever that records its arguments."""

    def search(self, queries, gallery, k, *, exclude_reference=False, wanted=None):
        self.arguments = queries, gallery, k, exclude_reference, wanted
        return tiny_ranking()


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("metrics, k", [({"recall": (1, 4), "map": (2,)}, 4), ({"recall_subset": (3,)}, 1)])
def test_a_retriever_ranks_by_the_protocol(exclude, metrics, k):
    benchmark, retriever = tiny_benchmark(exclude_reference=exclude, metrics=metrics), Recorder()
    assert benchmark.rank(retriever) == tiny_ranking()
    assert retriever.arguments == (benchmark.queries, benchmark.gallery, k, exclude, None)


def test_a_query_without_candidates_has_no_subset_score():
    queries = [replace(query, candidate_ids=()) if query.id == "q2" else query for query in tiny_benchmark().queries]
    benchmark = tiny_benchmark(queries=queries)
    scores = benchmark.scores(tiny_ranking())
    assert scores["recall_subset@1"][0] == 100 and np.isnan(scores["recall_subset@1"][1])
    assert benchmark.evaluate(tiny_ranking())["recall_subset@1"] == 100
    assert benchmark.chance()["recall_subset@1"] == pytest.approx(100 / 3)
    assert "recall_subset@1" not in means_by_tag(benchmark.queries[1:], {k: v[1:] for k, v in scores.items()})["short"]


def test_only_the_metrics_of_the_protocol_are_reported():
    benchmark = tiny_benchmark(metrics={"recall_share": (4,)})
    assert benchmark.k == 4
    assert benchmark.evaluate(tiny_ranking()) == {"recall_share@4": 100}


@pytest.mark.parametrize(
    "candidates, several, metrics",
    [
        (True, True, ["recall", "recall_subset", "map"]),
        (True, False, ["recall", "recall_subset"]),
        (False, True, ["recall", "map"]),
        (False, False, ["recall"]),
    ],
)
def test_default_metrics_depend_on_the_data(candidates, several, metrics):
    queries = [query if candidates else replace(query, candidate_ids=()) for query in tiny_benchmark().queries]
    benchmark = tiny_benchmark(
        metrics={}, queries=queries, relevance={"q1": {"b"}, "q2": set("ch" if several else "c")}
    )
    expected = {"recall": (1, 5, 10, 50), "recall_subset": (1, 2, 3), "map": (5, 10, 25, 50)}
    assert benchmark.metrics == {name: expected[name] for name in metrics}


def test_recall_may_count_one_of_several_targets():
    result = tiny_benchmark(main_targets={"q1": "b", "q2": "h"}).evaluate(tiny_ranking())
    assert result["recall@2"] == 50 and result["recall@4"] == 100
    assert result["map@4"] == tiny_benchmark().evaluate(tiny_ranking())["map@4"]


def test_a_query_without_targets_scores_0_if_allowed():
    """Whether its relevance is empty or missing."""
    for relevance in ({"q1": {"b"}, "q2": set()}, {"q1": {"b"}}):
        benchmark = tiny_benchmark(
            relevance=relevance,
            unanswerable=True,
            queries=[replace(query, candidate_ids=()) for query in tiny_benchmark().queries],
            metrics={"recall": (2,), "recall_share": (4,), "map": (4,)},
        )
        scores = benchmark.scores(tiny_ranking())
        assert {name: values[1] for name, values in scores.items()} == {"recall@2": 0, "recall_share@4": 0, "map@4": 0}
        assert benchmark.chance()["recall_share@4"] == pytest.approx(100 * 4 / 7 / 2)


def test_a_benchmark_of_some_queries_keeps_its_protocol():
    whole = tiny_benchmark(main_targets={"q1": "b", "q2": "h"}, distractors={"q1": {"c": "near"}, "q2": {"a": "far"}})
    some = whole.restricted_to(whole.queries[1:])
    assert [query.id for query in some.queries] == ["q2"] and some.gallery is whole.gallery
    assert (some.relevance, some.main_targets, some.distractors) == (
        {"q2": whole.relevance["q2"]},
        {"q2": "h"},
        {"q2": {"a": "far"}},
    )
    assert some.metrics == whole.metrics and some.protocol_id == whole.protocol_id


def test_items_are_taken_evenly():
    assert evenly_spaced(range(500), 6) == [0, 83, 166, 250, 333, 416]
    assert evenly_spaced("abc", 3) == evenly_spaced("abc", 9) == ["a", "b", "c"]


def test_every_metric_may_rank_candidates_only():
    benchmark = tiny_benchmark(candidates_only=True, metrics={"recall": (1, 2, 3)})
    assert benchmark.k == 1
    short = tiny_ranking(gallery_ids=[["d"], ["c"]], scores=[[1.0]] * 2)
    assert benchmark.evaluate(short) == {"recall@1": 50, "recall@2": 50, "recall@3": 100}


def test_scores_by_tag():
    benchmark = tiny_benchmark()
    by_tag = means_by_tag(benchmark.queries, benchmark.scores(tiny_ranking()))
    assert by_tag["short"] == {"num_queries": 2, **benchmark.evaluate(tiny_ranking())}
    assert by_tag["easy"]["num_queries"] == 1
    assert by_tag["easy"]["recall_subset@1"] == 100
    assert by_tag["easy"]["recall@1"] == 0


@pytest.mark.parametrize("changes", [{}, {"exclude_reference": False}, {"main_targets": {"q1": "b", "q2": "h"}}])
def test_chance_is_the_mean_of_all_rankings(changes):
    """Over every order of a gallery with six of the ids."""
    ids = IDS[:5] + ["h"]
    benchmark = tiny_benchmark(gallery=Gallery(ids, [None] * 6), **changes)
    benchmark.metrics["recall_share"] = (2,)
    totals, count = dict.fromkeys(benchmark.chance(), 0.0), 0
    for order in itertools.permutations(ids):
        rankings = [
            [id_ for id_ in order if not (benchmark.exclude_reference and id_ == query.reference_id)]
            for query in benchmark.queries
        ]
        candidates = [[id_ for id_ in order if id_ in query.ranked_candidate_ids] for query in benchmark.queries]
        found = benchmark.evaluate(Ranking(["q1", "q2"], rankings, candidate_ids=candidates))
        totals = {key: totals[key] + value for key, value in found.items()}
        count += 1
    assert benchmark.chance() == pytest.approx({key: value / count for key, value in totals.items()})


def test_without_targets_nothing_is_scored():
    benchmark = tiny_benchmark(relevance={})
    assert not benchmark.is_scored
    benchmark.check(tiny_ranking())
    for call in (lambda: benchmark.scores(tiny_ranking()), benchmark.chance):
        refuses("tiny/test", call)


def test_a_reference_outside_the_gallery_is_not_excluded():
    queries = [replace(query, reference_id="elsewhere", candidate_ids=()) for query in tiny_benchmark().queries]
    assert tiny_benchmark(queries=queries, metrics={"recall": (4,)}).evaluate(tiny_ranking()) == {"recall@4": 100}


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"query_ids": ["q1", "q1"]}, "'q1'"),
        ({"query_ids": ["q1", "q3"]}, " 1 .*'q2'"),
        ({"query_ids": ["q2", "q1", "q3"]}, "'q3'"),
        ({"gallery_ids": [list("dcah")]}, "1 gallery_ids .*2"),
        ({"gallery_ids": [list("dcah"), list("cbd")]}, "'q1' .* 3 .* 4\\b.*k=4"),
        ({"gallery_ids": [list("dcah"), list("cbdd")]}, "'q1' .*'d'"),
        ({"gallery_ids": [list("dcah"), list("cbdz")]}, "'q1' .*'z'"),
        ({"gallery_ids": [list("dcah"), list("cbda")]}, "'q1' .*'a'"),
        ({"scores": [[4.0, 3.0, 2.0, 1.0], [4.0, float("nan"), 2.0, 1.0]]}, "'q1' .*NaN"),
        ({"scores": [[4.0, 3.0, 2.0, 1.0], [4.0]]}, "'q1' .*1 .*4"),
        ({"candidate_ids": None}, r"'q1' .*\[\].*\['b', 'c', 'd'\]"),
        ({"candidate_ids": [list("dec"), list("bc")]}, r"'q1' .*\['b', 'c'\].*\['b', 'c', 'd'\]"),
        ({"candidate_ids": [list("dec"), list("abcd")]}, r"'q1' .*\['a', 'b', 'c', 'd'\].*\['b', 'c', 'd'\]"),
    ],
)
def test_a_ranking_that_would_score_wrongly_is_refused(changes, problem):
    ranking = tiny_ranking(**changes)
    if len(ranking.query_ids) == 3:
        ranking = replace(
            ranking, **{f: getattr(ranking, f) + [[]] for f in ("gallery_ids", "scores", "candidate_ids")}
        )
    refuses(f"^tiny: .*{problem}", tiny_benchmark().evaluate, ranking)


def test_the_reference_may_be_kept():
    benchmark = tiny_benchmark(exclude_reference=False)
    ranking = tiny_ranking(gallery_ids=[list("bcdh"), list("abcd")])
    assert benchmark.evaluate(ranking)["recall@1"] == 0
    assert benchmark.evaluate(ranking)["recall@2"] == 100


def query(**changes):
    return [Query("q1", "a text", reference_id="a"), replace(Query("q2", "a text", reference_id="b"), **changes)]


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"queries": [], "relevance": {}}, "queries"),
        ({"queries": query(id="q1")}, "'q1'"),
        ({"queries": query(modification_text=" ")}, "'q2' .*modification_text"),
        ({"queries": query(modification_text=None)}, "'q2' .*modification_text None"),
        ({"queries": query(reference_image="x.png", reference_id=None)}, "'q2' .*reference_id"),
        ({"relevance": {"q1": {"b"}}}, "'q2'"),
        ({"relevance": {"q1": {"b"}, "q2": {"z"}}}, "'q2' .*'z'"),
        ({"relevance": {"q1": {"b"}, "q2": {"b"}}}, "'q2' .*'b'"),
        ({"relevance": {"q1": {"b"}, "q2": {"c"}, "q9": {"c"}}}, "'q9'"),
        ({"main_targets": {"q1": "b", "q2": "d"}}, "'q2' .*'d'"),
        ({"main_targets": {"q1": "b"}}, "'q2' .*None"),
        ({"metrics": {"recall": (1,), "ndcg": (10,)}}, "'ndcg'.*recall_subset, map"),
        ({"queries": query(candidate_ids=tuple("bcz"))}, "'q2' .*'z'"),
        ({"queries": query(candidate_ids=tuple("bdcd"))}, "'q2'.*'d'"),
        ({"queries": query(candidate_ids=tuple("bde"))}, "'q2' .*candidates"),
        ({"queries": query()}, "candidate_ids .*recall, recall_subset, map"),
    ],
)
def test_inconsistent_data_are_refused(changes, problem):
    refuses(f"^tiny: .*{problem}", tiny_benchmark, **changes)


def test_golden_values_of_cirr_with_the_reference_kept(data_root):
    """Not CIRR's protocol (see test_cirr.py): the numbers if the reference is left in the ranking."""
    annotations = json.loads((data_root / "cirr/captions/cap.rc2.val.json").read_text())
    ids = list(json.loads((data_root / "cirr/image_splits/split.rc2.val.json").read_text()))
    expected = json.loads((data_root / "golden/cirr_val_expected.json").read_text())["expected_exact"]
    benchmark = Benchmark(
        name="cirr",
        protocol_id="cirr/val",
        gallery=Gallery(ids, [None] * len(ids)),
        queries=[Query(str(row["pairid"]), row["caption"], reference_id=row["reference"]) for row in annotations],
        relevance={str(row["pairid"]): {row["target_hard"]} for row in annotations},
        exclude_reference=False,
    )
    ranking = rank(benchmark.queries, benchmark.gallery, *golden_embeds(data_root / "golden", "cirr_val_"), 50)
    wanted = {f"recall@{k}": v for k, v in expected["recall_percent_if_reference_is_NOT_removed"].items()}
    assert benchmark.evaluate(ranking) == pytest.approx(wanted, abs=1e-9)
