"""VisDial chat retrieval: turns and texts, scores of dialogues from ranks of targets, golden values."""

import json
from itertools import product
from math import log

import numpy as np
import pytest
import torch

from contextcir.benchmarks import visdial
from contextcir.benchmarks.visdial import ChatBenchmark
from contextcir.retrieval.base import Gallery, Query, Ranking
from contextcir.retrieval.ranking import rank
from tests.benchmarks.layouts import refuses, write
from tests.measured import measured
from tests.tiny_triplets import png

IDS = [f"unlabeled2017/{number:012d}.jpg" for number in range(20)]
DIALOGUES, SEARCH_SPACE = "dialogues/VisDial_v1.0_queries_val.json", "Protocol/Search_Space_val_50k.json"
SAID = ["a dog on a sofa", *(f"is it {number}? no" for number in range(1, 11))]


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """Two dialogues over twenty images, in the official layout."""
    rows = [{"img": IDS[3], "dialog": SAID}, {"img": IDS[19], "dialog": ["a cat", *SAID[1:]]}]
    write(tmp_path / DIALOGUES, rows)
    write(tmp_path / SEARCH_SPACE, IDS)
    (tmp_path / "unlabeled2017").mkdir()
    for number, id_ in enumerate(IDS):
        (tmp_path / id_).write_bytes(png(number))
    monkeypatch.setattr(visdial, "OFFICIAL", {"val": {"dialogues": 2, "images": 20}})
    return tmp_path


def ranked(benchmark, ranks) -> Ranking:
    """Rankings of ten ids in which the targets have these ranks, by round and dialogue."""
    rows, wanted = [], {}
    for query in benchmark.queries:
        dialogue, _, number = query.id.partition("/")
        (target,) = benchmark.relevance[query.id]
        wanted[query.id] = int(ranks[int(number)][int(dialogue)])
        row = [id_ for id_ in benchmark.gallery.ids[:11] if id_ != target][:10]
        if wanted[query.id] < 10:
            row = [*row[: wanted[query.id]], target, *row[wanted[query.id] : 9]]
        rows.append(row)
    return Ranking([query.id for query in benchmark.queries], rows, wanted_ranks=wanted)


def test_the_official_layout(mini):
    (loaded,) = visdial.load(str(mini))
    assert loaded.protocol_id == "visdial/v1.0/val/chatir"
    assert [query.id for query in loaded.queries[:12]] == [*(f"0/{number}" for number in range(11)), "1/0"]
    assert loaded.queries[0].turns == ("a dog on a sofa",)
    assert loaded.queries[2].turns == tuple(SAID[:3])
    assert loaded.queries[2].modification_text == "a dog on a sofa, is it 1? no, is it 2? no"
    assert len(loaded.queries[10].turns) == 11
    assert not any(query.has_reference for query in loaded.queries)
    assert loaded.wanted == {f"{d}/{r}": IDS[3 if d == 0 else 19] for d in range(2) for r in range(11)}
    assert loaded.unit_ids == ["0", "1"]
    assert loaded.k == 10
    assert loaded.gallery.image(IDS[3]).size == (34, 30)


def test_scores_are_of_dialogues(mini):
    (loaded,) = visdial.load(str(mini))
    ranks = np.full((11, 2), 19)
    ranks[4, 0], ranks[10, 1] = 9, 0  # in round 4 at the last place that counts; in round 10
    scores = loaded.scores(ranked(loaded, ranks))
    assert len(scores) == 23 and all(values.shape == (2,) for values in scores.values())
    hits = {3: [0, 0], 4: [100, 0], 9: [100, 0], 10: [100, 100]}
    recall = {3: [0, 0], 4: [100, 0], 9: [0, 0], 10: [0, 100]}
    assert {number: scores[f"hits@10/r{number}"].tolist() for number in hits} == hits
    assert {number: scores[f"recall@10/r{number}"].tolist() for number in recall} == recall
    # Ten steps between rounds: 3 at rank 19, one from 19 to 9, 6 at rank 9; 9 at rank 19 and one from 19 to 0.
    expected = [(3.5 * log(20) + 6.5 * log(10)) / 10, 9.5 * log(20) / 10]
    assert scores["bri"] == pytest.approx(expected)
    means = loaded.evaluate(ranked(loaded, ranks))
    assert (means["hits@10/r10"], means["recall@10/r10"]) == (100, 50)


def test_an_embedding_retriever_finds_the_ranks(mini):
    (loaded,) = visdial.load(str(mini))
    gallery_embeds = torch.eye(20)
    order = torch.arange(20, 0, -1).float()  # image 0 is best: the ranks of the targets are 3 and 19
    ranking = rank(loaded.queries, loaded.gallery, order.expand(22, 20), gallery_embeds, 10, wanted=loaded.wanted)
    scores = loaded.scores(ranking)
    assert scores["hits@10/r0"].tolist() == [100, 0]
    assert scores["bri"] == pytest.approx([log(4), log(20)])


def test_ranks_that_are_missing_or_contradict_the_ids_are_refused(mini):
    (loaded,) = visdial.load(str(mini))
    good = ranked(loaded, np.full((11, 2), 5))
    rows, wanted = good.gallery_ids, good.wanted_ranks
    refuses("visdial: .*wanted=benchmark.wanted", loaded.scores, Ranking(good.query_ids, rows))
    with pytest.raises(ValueError, match="visdial: .*wanted=benchmark.wanted"):
        loaded.scores(Ranking(good.query_ids, rows, wanted_ranks={"0/0": 5}))
    with pytest.raises(ValueError, match="'0/0' .*'.*03.jpg' .* 6, .*10 ids"):
        loaded.scores(Ranking(good.query_ids, rows, wanted_ranks={id_: 6 for id_ in wanted}))  # counted from 1
    for impossible in (9, 20):  # its target is not among the ten; there are twenty images
        bad = ranked(loaded, np.full((11, 2), 19))
        bad.wanted_ranks["1/7"] = impossible
        refuses(f"'1/7' .*'.*19.jpg' .* {impossible}, .*20 images", loaded.scores, bad)
    refuses(" 1 .*'1/10'", loaded.scores, Ranking(good.query_ids[:-1], rows[:-1], wanted_ranks=wanted))


def test_chance_is_the_mean_over_all_rankings():
    queries = [Query(id=f"a/{number}", modification_text="red") for number in range(3)]
    gallery = Gallery(list("xyzw"), [None] * 4)
    relevance = {query.id: {"z"} for query in queries}
    chat = ChatBenchmark("chat", "chat", gallery, queries, relevance, False, {"recall": (2,)}, rounds=3)
    every = []  # the target can have any of four ranks in each of three rounds
    for ranks in product(range(4), repeat=3):
        ids = [["x", "y", "w"][:3] for _ in ranks]
        for row, above in zip(ids, ranks, strict=True):
            row.insert(above, "z")
        wanted = {query.id: above for query, above in zip(queries, ranks, strict=True)}
        every.append(chat.evaluate(Ranking([query.id for query in queries], ids, wanted_ranks=wanted)))
    chance = chat.chance()
    assert chance.keys() == every[0].keys()
    assert chance == pytest.approx({key: np.mean([some[key] for some in every]) for key in chance})


def test_missing_and_damaged_data_are_named(mini, monkeypatch):
    (mini / IDS[7]).unlink()
    refuses("visdial val: 1 of 20 .*0007.jpg", visdial.load, str(mini))
    visdial.load(str(mini), check_images=False)
    for row, message in (
        ({"img": IDS[0]}, "row 1, key 'dialog'"),
        ({"img": IDS[0], "dialog": SAID[:10]}, "row 1, key 'dialog': .*11"),
    ):
        write(mini / DIALOGUES, [{"img": IDS[3], "dialog": SAID}, row])
        refuses(f"queries_val.json, {message}", visdial.load, str(mini))
    (mini / DIALOGUES).unlink()
    refuses("queries_val.json", visdial.load, str(mini))


def test_other_data_than_the_official_are_refused(mini, monkeypatch):
    write(mini / SEARCH_SPACE, IDS[:19])
    refuses("2 dialogues and 19 images, .* 2 dialogues and 20 images", visdial.load, str(mini))
    monkeypatch.setattr(visdial, "OFFICIAL", {"val": {"dialogues": 2, "images": 19}})
    refuses("'1/0' .*target '.*019.jpg'", visdial.load, str(mini))


def test_from_the_command_line(mini, run):
    record = measured(run, "visdial", mini)
    names = [result["retriever"] for result in record["results"]]
    assert names == [str(run), "CLIP, text only"]  # there are no reference images
    hits = [record["results"][0]["metrics"][f"hits@10/r{number}"] for number in range(11)]
    assert hits == sorted(hits)


def test_golden_values(data_root):
    (loaded,) = visdial.load(str(data_root / "plugir"), check_images=False)
    assert (len(loaded.queries), len(loaded.gallery), len(loaded.unit_ids)) == (22_704, 50_000, 2064)
    assert len(set(loaded.wanted.values())) == 2064
    ranks = json.loads((data_root / "golden/chat_retrieval_ranks.json").read_text())
    expected = json.loads((data_root / "golden/chat_retrieval_expected.json").read_text())["expected_exact"]
    found = loaded.evaluate(ranked(loaded, ranks))
    for metric in ("hits", "recall"):
        counts = [round(found[f"{metric}@10/r{number}"] * 2064 / 100, 9) for number in range(11)]
        assert counts == expected[f"{metric}@10_counts"]
    assert found["bri"] == pytest.approx(expected["BRI_float64"], rel=1e-14)
    assert loaded.chance()["recall@10/r10"] == pytest.approx(100 * 10 / 50_000)
