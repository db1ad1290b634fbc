"""Records: the script of a user with a retriever of their own, several retrievers, parts, and unscored benchmarks."""

import json
from dataclasses import replace

import pytest

from contextcir import Record, load_benchmark, measure
from contextcir.evaluation import measure as module
from contextcir.evaluation.compare import compare, format_comparison
from contextcir.retrieval.base import Gallery, Ranking
from tests.benchmarks.test_base import IDS, tiny_benchmark, tiny_ranking
from tests.tiny_triplets import write_benchmark


class Brightness:
    """The retriever of a user: the brightest images first."""

    def search(self, queries, gallery, k, *, exclude_reference=False, wanted=None):
        ids = sorted(gallery.ids, key=lambda id_: -sum(gallery.image(id_).convert("L").histogram()[128:]))
        ranked = [[id_ for id_ in ids if not (exclude_reference and id_ == query.reference_id)] for query in queries]
        candidates = [[id_ for id_ in ids if id_ in query.ranked_candidate_ids] for query in queries]
        return Ranking([query.id for query in queries], [some[:k] for some in ranked], candidate_ids=candidates)


class Fixed:
    """A retriever with one ranking."""

    def __init__(self, ranking):
        self.ranking = ranking

    def search(self, queries, gallery, k, *, exclude_reference=False, wanted=None):
        return self.ranking


class Reporting(Fixed):
    def report(self):
        return {"cost": 3}


def test_the_script_of_a_user(tmp_path, capsys):
    data, output = write_benchmark(tmp_path / "data"), tmp_path / "out" / "metrics.json"

    record = measure(Brightness(), load_benchmark("custom", data, "validation"), name="brightness")
    print(record)
    record.save(output)

    assert list(record.metrics) == [
        *(f"recall@{k}" for k in (1, 5, 10, 50)),
        *(f"recall_subset@{k}" for k in (1, 2, 3)),
    ]
    assert record.metrics["recall@50"] == 100
    table = capsys.readouterr().out
    (part,) = load_benchmark("custom", data, "validation")
    assert part.protocol_id in table and "brightness" in table and f"{record.metrics['recall@5']:.2f}" in table
    saved = json.loads(output.read_text())
    assert saved == record.as_dict()
    assert (saved["benchmark"], saved["protocol_id"]) == ("data", part.protocol_id)
    assert (saved["num_queries"], saved["gallery_size"]) == (5, 10)
    assert saved["chance"] == part.chance() and saved["results"][0]["seconds"] >= 0
    assert saved["versions"]["contextcir"] and saved["device"] and saved["processes"] == 1
    lines = [json.loads(line) for line in output.with_suffix(".queries.jsonl").read_text().splitlines()]
    assert lines == record.lines
    assert [line["id"] for line in lines] == part.unit_ids
    ranking = part.rank(Brightness())
    assert [line["top"] for line in lines] == ranking.gallery_ids
    assert [line["scores"]["recall@1"] for line in lines] == part.scores(ranking)["recall@1"].tolist()

    found = compare(output, output)
    assert found["retriever_a"] == "brightness" and found["metrics"]["recall@1"]["num_queries"] == 5
    assert "brightness" in format_comparison(found)


def test_two_retrievers_are_compared_on_the_queries_with_the_metric(tmp_path):
    queries = [replace(query, candidate_ids=()) if query.id == "q2" else query for query in tiny_benchmark().queries]
    record = Record(tiny_benchmark(queries=queries), "other name")
    rankings = record.add("one", Reporting(tiny_ranking()))
    better = tiny_ranking(gallery_ids=[list("cdah"), list("bcde")], candidate_ids=[list("dec"), list("dbc")])
    record.add("two", Fixed(better))
    assert rankings == [tiny_ranking()] and record.facts["benchmark"] == "other name"
    assert record.metrics is record.results[0]["metrics"]
    assert record.results[0]["cost"] == 3 and "cost" not in record.results[1]
    record.save(tmp_path / "metrics.json")
    found = compare(*[tmp_path / "metrics.json"] * 2, retriever_a="one", retriever_b="two")["metrics"]
    differences = {name: (found[name]["difference"], found[name]["num_queries"]) for name in list(found)[:4]}
    assert differences == {
        "recall@1": (100, 2),
        "recall@2": (0, 2),
        "recall@4": (0, 2),
        "recall_subset@1": (-100, 1),  # q2 has no candidates
    }


def test_parts_are_summed_and_averaged():
    record = Record([tiny_benchmark(part="one"), tiny_benchmark(part="two", relevance={"q1": {"b"}, "q2": {"d"}})])
    record.add("mine", Fixed(tiny_ranking()))
    assert (record.facts["num_queries"], record.facts["gallery_size"]) == (4, 16)
    assert record.metrics["recall@1"] == 25  # q2 of the second part
    assert record.as_dict()["chance"]["recall@1"] == pytest.approx(100 * (1 + 2 + 1 + 1) / 7 / 4)
    assert [(line["part"], line["id"]) for line in record.lines] == [
        (part, id_) for part in ("one", "two") for id_ in ("q1", "q2")
    ]
    gallery = Gallery(IDS, [None] * len(IDS))
    assert Record([tiny_benchmark(gallery=gallery)] * 2).facts["gallery_size"] == 8  # shared


def test_without_public_targets_there_are_rankings_only(tmp_path):
    record = Record(tiny_benchmark(relevance={}))
    assert not record.is_scored
    assert record.add("mine", Fixed(tiny_ranking())) == [tiny_ranking()]
    assert "tiny/test" in str(record)
    with pytest.raises(ValueError, match="tiny/test"):
        _ = record.metrics
    record.save(tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text())["results"] == []
    assert (tmp_path / "metrics.queries.jsonl").read_text() == ""


def test_bad_measurements_are_refused():
    with pytest.raises(ValueError, match="benchmark"):
        Record([])
    record = measure(Fixed(tiny_ranking()), tiny_benchmark())
    with pytest.raises(ValueError, match="'model'"):
        record.add("model", Fixed(tiny_ranking()))
    with pytest.raises(ValueError, match="'q1' .*'a'"):
        record.add("other", Fixed(tiny_ranking(gallery_ids=[list("dcah"), list("abde")])))
    assert len(record.results) == 1 and len(record.lines) == 2


def test_known_mistakes_and_grounding_are_part_of_the_record(monkeypatch):
    truths = {"q1": "the truth"}
    benchmark = tiny_benchmark(distractors={"q1": {"c": "partial"}}, ground_truth=lambda: truths)
    record = measure(Fixed(tiny_ranking()), benchmark, name="mine")
    assert record.results[0]["profile"]["all"]["kinds"]["partial"]["rank1"] == 50
    assert "partial" in str(record)

    class Model:
        get_concept_attentions = None

    measured = {"all": {"num_phrases": 7, "pointing": 1.0, "mass": 2.0, "chance": 3.0, "ceiling": 4.0}}
    calls = []
    monkeypatch.setattr(
        module, "measure_grounding", lambda *args, **options: calls.append((args, options)) or measured
    )
    record.add_grounding("mine", object(), None)  # a model without attention maps
    Record(tiny_benchmark()).add_grounding("mine", Model(), None)  # a benchmark without ground truth
    assert not calls and "grounding" not in record.facts
    model = Model()
    record.add_grounding("mine", model, "processor", batch_size=5)
    assert calls == [((model, "processor", benchmark, truths), {"batch_size": 5})]
    assert (record.as_dict()["grounding"], record.as_dict()["grounded"]) == (measured, "mine")
    assert "pointing" in str(record)
