"""Protocols against hand counts and the values of other people's evaluation code; bad rankings and data are named."""

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contextcir.benchmarks.base import Benchmark, evenly_spaced, means_by_tag
from contextcir.retrieval.base import Gallery, Query, Ranking
from contextcir.retrieval.index import search

CIR_DATA_ROOT = os.environ.get("CIR_DATA_ROOT")
needs_real_data = pytest.mark.skipif(not CIR_DATA_ROOT, reason="CIR_DATA_ROOT is not set")

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


def test_scores_of_each_query():
    scores = tiny_benchmark().scores(tiny_ranking())
    assert scores["recall@2"].tolist() == [100, 100] and scores["recall_subset@1"].tolist() == [100, 0]  # q1, q2
    assert tiny_benchmark().unit_ids == ["q1", "q2"]


def test_a_query_without_candidates_has_no_subset_score():
    queries = [replace(query, candidate_ids=()) if query.id == "q2" else query for query in tiny_benchmark().queries]
    benchmark = tiny_benchmark(queries=queries)
    scores = benchmark.scores(tiny_ranking())
    assert scores["recall_subset@1"][0] == 100 and np.isnan(scores["recall_subset@1"][1])
    assert benchmark.evaluate(tiny_ranking())["recall_subset@1"] == 100
    assert "recall_subset@1" not in means_by_tag(benchmark.queries[1:], {k: v[1:] for k, v in scores.items()})["short"]


def test_only_what_the_protocol_names_is_reported():
    benchmark = tiny_benchmark(metrics={"recall_share": (4,)})
    assert benchmark.k == 4
    assert benchmark.evaluate(tiny_ranking()) == {"recall_share@4": 100}


def test_recall_may_count_one_of_several_targets():
    result = tiny_benchmark(main_targets={"q1": "b", "q2": "h"}).evaluate(tiny_ranking())
    assert result["recall@2"] == 50 and result["recall@4"] == 100
    assert result["map@4"] == tiny_benchmark().evaluate(tiny_ranking())["map@4"]


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


def test_candidates_may_be_all_of_a_gallery():
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
    """Against every order of the gallery, of the six ids that matter."""
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


def test_a_reference_outside_the_gallery_has_nothing_to_exclude():
    queries = [replace(query, reference_id="elsewhere", candidate_ids=()) for query in tiny_benchmark().queries]
    assert tiny_benchmark(queries=queries, metrics={"recall": (4,)}).evaluate(tiny_ranking()) == {"recall@4": 100}


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"query_ids": ["q1", "q1"]}, "'q1' more than once"),
        ({"query_ids": ["q1", "q3"]}, "misses 1 of the queries, such as 'q2'"),
        ({"query_ids": ["q2", "q1", "q3"]}, "'q3', which is not among the queries"),
        ({"gallery_ids": [list("dcah")]}, "1 gallery_ids for 2 queries"),
        ({"gallery_ids": [list("dcah"), list("cbd")]}, "'q1' holds 3 ids, 4 are needed"),
        ({"gallery_ids": [list("dcah"), list("cbdd")]}, "'q1' hold the id 'd' more than once"),
        ({"gallery_ids": [list("dcah"), list("cbdz")]}, "'q1' holds 'z', which is not in the gallery"),
        ({"gallery_ids": [list("dcah"), list("cbda")]}, "'q1' holds its reference 'a'"),
        ({"scores": [[4.0, 3.0, 2.0, 1.0], [4.0, float("nan"), 2.0, 1.0]]}, "'q1' .* NaN"),
        ({"scores": [[4.0, 3.0, 2.0, 1.0], [4.0]]}, "'q1' holds 1 scores for 4 ids"),
        ({"candidate_ids": None}, "'q1' has the candidates \\[\\]"),
        ({"candidate_ids": [list("dec"), list("bc")]}, "'q1' has the candidates"),
        ({"candidate_ids": [list("dec"), list("abcd")]}, "'q1' has the candidates"),
    ],
)
def test_a_ranking_that_would_score_wrongly_is_refused(changes, problem):
    ranking = tiny_ranking(**changes)
    if len(ranking.query_ids) == 3:
        ranking = replace(
            ranking, **{f: getattr(ranking, f) + [[]] for f in ("gallery_ids", "scores", "candidate_ids")}
        )
    with pytest.raises(ValueError, match=problem):
        tiny_benchmark().evaluate(ranking)


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
        ({"queries": [], "relevance": {}}, "no queries"),
        ({"queries": query(id="q1")}, "'q1' more than once"),
        ({"queries": query(modification_text=" ")}, "'q2' has an empty modification_text"),
        ({"queries": query(modification_text=None)}, "'q2' has the modification_text None, expected a string"),
        ({"queries": query(reference_image="x.png", reference_id=None)}, "'q2' has no reference_id"),
        ({"relevance": {"q1": {"b"}}}, "'q2' has no target"),
        ({"relevance": {"q1": {"b"}, "q2": {"z"}}}, "'q2' has the target 'z', which is not in the gallery"),
        ({"relevance": {"q1": {"b"}, "q2": {"b"}}}, "'q2' has its reference 'b' as a target"),
        ({"relevance": {"q1": {"b"}, "q2": {"c"}, "q9": {"c"}}}, "names the query 'q9'"),
        ({"queries": query(candidate_ids=tuple("bcz"))}, "'q2' has the candidate 'z'"),
        ({"queries": query(candidate_ids=tuple("bdcd"))}, "'q2': the candidates hold the id 'd' more than once"),
        ({"queries": query(candidate_ids=tuple("bde"))}, "'q2' has no target among its candidates"),
        ({"queries": query()}, "no query has candidate_ids to rank, which recall, recall_subset, map need"),
    ],
)
def test_data_that_contradict_themselves_are_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        tiny_benchmark(**changes)


# --- golden values ---------------------------------------------------------------------------------------------------


@needs_real_data
def test_cirr_val_with_the_reference_kept():
    """Not CIRR's protocol (for that, see test_cirr.py): what is measured when the reference is forgotten."""
    root = Path(CIR_DATA_ROOT)
    annotations = json.loads((root / "cirr/captions/cap.rc2.val.json").read_text())
    ids = list(json.loads((root / "cirr/image_splits/split.rc2.val.json").read_text()))
    expected = json.loads((root / "golden/cirr_val_expected.json").read_text())["expected_exact"]
    queries_embeds, gallery_embeds = (
        torch.nn.functional.normalize(torch.from_numpy(np.load(root / f"golden/cirr_val_{part}_features.npy")).float())
        for part in ("query", "index")
    )
    benchmark = Benchmark(
        name="cirr",
        protocol_id="cirr/val",
        gallery=Gallery(ids, [None] * len(ids)),
        queries=[Query(str(row["pairid"]), row["caption"], reference_id=row["reference"]) for row in annotations],
        relevance={str(row["pairid"]): {row["target_hard"]} for row in annotations},
        exclude_reference=False,
    )
    scores, indices = search(queries_embeds, gallery_embeds, 50, block_size=500)
    names = [[ids[i] for i in row] for row in indices.tolist()]
    result = benchmark.evaluate(Ranking([query.id for query in benchmark.queries], names, scores.tolist()))
    wanted = {f"recall@{k}": v for k, v in expected["recall_percent_if_reference_is_NOT_removed"].items()}
    assert result == pytest.approx(wanted, abs=1e-9)
