"""Protocols against hand counts and the values of other people's evaluation code; bad rankings and data are named."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from datasets.exceptions import DatasetNotFoundError
from PIL import Image as PILImage

from contextcir.benchmarks import base
from contextcir.benchmarks.base import Benchmark, load_benchmark
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
        recall_ks=(1, 2, 4),
        map_ks=(2, 4),
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


def test_what_is_not_there_is_not_reported():
    queries = [replace(query, candidate_ids=()) for query in tiny_benchmark().queries]
    benchmark = tiny_benchmark(queries=queries, relevance={"q1": {"b"}, "q2": {"c"}})
    assert benchmark.k == 4
    assert list(benchmark.evaluate(tiny_ranking(candidate_ids=None, scores=None))) == [
        "recall@1",
        "recall@2",
        "recall@4",
    ]


def test_scores_by_tag():
    by_tag = tiny_benchmark().evaluate_by_tag(tiny_ranking())
    assert by_tag["short"] == {"num_queries": 2, **tiny_benchmark().evaluate(tiny_ranking())}
    assert by_tag["easy"]["num_queries"] == 1
    assert by_tag["easy"]["recall_subset@1"] == 100
    assert by_tag["easy"]["recall@1"] == 0


def test_a_reference_outside_the_gallery_has_nothing_to_exclude():
    queries = [replace(query, reference_id="elsewhere", candidate_ids=()) for query in tiny_benchmark().queries]
    tiny_benchmark(queries=queries).evaluate(tiny_ranking())


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
        ({"relevance": {"q1": {"b"}}}, "'q2' has no target"),
        ({"relevance": {"q1": {"b"}, "q2": {"z"}}}, "'q2' has the target 'z', which is not in the gallery"),
        ({"relevance": {"q1": {"b"}, "q2": {"b"}}}, "'q2' has its reference 'b' as a target"),
        ({"relevance": {"q1": {"b"}, "q2": {"c"}, "q9": {"c"}}}, "names the query 'q9'"),
        ({"queries": query(candidate_ids=tuple("bcz"))}, "'q2' has the candidate 'z'"),
        ({"queries": query(candidate_ids=tuple("bdcd"))}, "'q2': the candidates hold the id 'd' more than once"),
        ({"queries": query(candidate_ids=tuple("bde"))}, "'q2' has no target among its candidates"),
    ],
)
def test_data_that_contradict_themselves_are_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        tiny_benchmark(**changes)


# --- the published form ----------------------------------------------------------------------------------------------


def png(value):
    buffer = io.BytesIO()
    PILImage.new("L", (2, 2), value).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write(root, config, rows, features, split="test"):
    (root / config).mkdir(parents=True, exist_ok=True)
    dataset = Dataset.from_list(rows, features=Features(features))
    dataset.to_parquet(root / config / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def folder(tmp_path):
    string = Value("string")
    root = tmp_path / "tiny"
    write(
        root, "gallery", [{"id": id_, "image": png(i)} for i, id_ in enumerate(IDS)], {"id": string, "image": Image()}
    )
    rows = [
        {
            "id": query.id,
            "reference_image": png(100),
            "reference_id": query.reference_id,
            "modification_text": query.modification_text,
            "candidate_ids": list(query.candidate_ids),
            "tags": list(query.tags),
        }
        for query in tiny_benchmark().queries
    ]
    features = dict.fromkeys(("id", "reference_id", "modification_text"), string)
    features |= {"reference_image": Image(), "candidate_ids": List(string), "tags": List(string)}
    write(root, "queries", rows, features)
    pairs = [{"query_id": q, "target_id": t} for q, ts in tiny_benchmark().relevance.items() for t in sorted(ts)]
    write(root, "relevance", pairs, {"query_id": string, "target_id": string})
    return root


def test_load_benchmark(folder):
    benchmark = load_benchmark(str(folder), "test")
    assert (benchmark.name, benchmark.protocol_id) == ("tiny", "tiny/test/reference-excluded")
    assert benchmark.gallery.ids == IDS
    assert benchmark.gallery.image("c").getpixel((0, 0)) == (2, 2, 2)
    assert benchmark.relevance == tiny_benchmark().relevance
    assert benchmark.gallery.reference_image(benchmark.queries[0]).getpixel((0, 0)) == (100, 100, 100)
    stored = [replace(query, reference_image=None) for query in benchmark.queries]
    assert stored == tiny_benchmark().queries
    short = replace(benchmark, recall_ks=(1, 2, 4), map_ks=(2, 4))
    assert short.evaluate(tiny_ranking()) == tiny_benchmark().evaluate(tiny_ranking())


def test_optional_columns_may_be_missing(folder):
    rows = [{"id": "q", "modification_text": "x", "reference_id": "a"}]
    write(folder, "queries", rows, dict.fromkeys(rows[0], Value("string")), "tiny")
    write(
        folder,
        "relevance",
        [{"query_id": "q", "target_id": "b"}],
        dict.fromkeys(("query_id", "target_id"), Value("string")),
        "tiny",
    )
    write(
        folder,
        "gallery",
        [{"id": id_, "image": png(7)} for id_ in IDS],
        {"id": Value("string"), "image": Image()},
        "tiny",
    )
    (loaded,) = load_benchmark(str(folder), "tiny", exclude_reference=False).queries
    assert loaded == Query("q", "x", reference_id="a")


def test_missing_splits_columns_and_folders_are_named(folder, monkeypatch):
    with pytest.raises(ValueError, match="gallery/val-.*parquet. Splits that it has: test"):
        load_benchmark(str(folder), "val")
    with pytest.raises(ValueError, match="Splits that it has: none. Build it first"):
        load_benchmark(str(folder / "gallery"), "test")
    write(
        folder,
        "relevance",
        [{"query": "q1", "target_id": "b"}],
        dict.fromkeys(("query", "target_id"), Value("string")),
    )
    with pytest.raises(
        ValueError, match=r"relevance: the columns \['query_id'\] are missing; there are \['query', 'target_id'\]"
    ):
        load_benchmark(str(folder), "test")

    def not_found(*args, **kwargs):
        raise DatasetNotFoundError("no")

    monkeypatch.setattr(base, "load_dataset", not_found)
    with pytest.raises(ValueError, match="'data/missing' is neither a folder here nor a dataset"):
        load_benchmark("data/missing", "test")


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
        recall_ks=(1, 5, 10, 50),
    )
    scores, indices = search(queries_embeds, gallery_embeds, 50, block_size=500)
    names = [[ids[i] for i in row] for row in indices.tolist()]
    result = benchmark.evaluate(Ranking([query.id for query in benchmark.queries], names, scores.tolist()))
    wanted = {f"recall@{k}": v for k, v in expected["recall_percent_if_reference_is_NOT_removed"].items()}
    assert result == pytest.approx(wanted, abs=1e-9)


@needs_real_data
def test_circo_val():
    root = Path(CIR_DATA_ROOT)
    annotations = json.loads((root / "circo/annotations/val.json").read_text())
    submission = json.loads((root / "circo/submission_examples/submission_val.json").read_text())
    expected = json.loads((root / "golden/circo_val_expected.json").read_text())["expected"]
    (expected,) = expected.values()
    relevance = {str(row["id"]): {str(id_) for id_ in row["gt_img_ids"]} for row in annotations}
    rankings = {id_: [str(image) for image in images] for id_, images in submission.items()}
    ids = sorted(set().union(*relevance.values(), *rankings.values()))
    benchmark = Benchmark(
        name="circo",
        protocol_id="circo/val",
        gallery=Gallery(ids, [None] * len(ids)),
        queries=[
            Query(
                str(row["id"]),
                row["relative_caption"],
                reference_id=str(row["reference_img_id"]),
                tags=tuple(row["semantic_aspects"]),
            )
            for row in annotations
        ],
        relevance=relevance,
        exclude_reference=False,
        recall_ks=(5, 10, 25, 50),
        map_ks=(1, 2, 5, 10, 20, 25, 50),
    )
    ranking = Ranking(list(rankings), list(rankings.values()))
    result = benchmark.evaluate(ranking)
    wanted = {f"map@{k}": 100 * v for k, v in (expected["mAP"] | expected["mAP_extra_ranks"]).items()}
    assert {key: result[key] for key in wanted} == pytest.approx(wanted, abs=1e-9)
    by_tag = {tag: scores["map@10"] for tag, scores in benchmark.evaluate_by_tag(ranking).items()}
    assert by_tag == pytest.approx({tag: 100 * v for tag, v in expected["semantic_mAP@10"].items()}, abs=1e-9)

    # CIRCO's recall knows one target only, the first of the annotation.
    single = replace(benchmark, relevance={str(row["id"]): {str(row["target_img_id"])} for row in annotations})
    wanted = {f"recall@{k}": 100 * v for k, v in expected["recall"].items()}
    assert single.evaluate(ranking) == pytest.approx(wanted, abs=1e-9)
