"""The metrics as `evaluate` modules, loaded by the path of the file."""

import numpy as np
import pytest

import contextcir.metrics
from contextcir.metrics.dialogues import dialogue_bri

evaluate = pytest.importorskip("evaluate")
PATH = f"{contextcir.metrics.__path__[0]}/evaluate_metric.py"
RANKED = {"predictions": [list("abc"), list("bca")], "references": [["a", "c"], ["a", "c"]]}


@pytest.mark.parametrize(
    "name, options, expected",
    [
        ("recall", {"ks": [1, 2]}, {"recall@1": 50, "recall@2": 100}),
        ("recall", {}, {"recall@1": 50, "recall@5": 100, "recall@10": 100, "recall@50": 100}),
        ("map", {"ks": [1, 3]}, {"map@1": 50, "map@3": 100 * (5 / 6 + 7 / 12) / 2}),
        ("mrr", {}, {"mrr": 75}),
        ("mrr", {"ks": [1]}, {"mrr@1": 50}),
        ("ndcg", {"ks": [1]}, {"ndcg@1": 50}),
    ],
)
def test_ranked_ids(name, options, expected, tmp_path):
    metric = evaluate.load(PATH, name, cache_dir=str(tmp_path))
    assert metric.compute(**RANKED, **options) == pytest.approx(expected)


def test_dialogues(tmp_path):
    ranks = [[12, 3], [5, 70], [50, 60]]  # (dialogues, rounds)
    hits = evaluate.load(PATH, "hits", cache_dir=str(tmp_path)).compute(predictions=ranks, ks=[10])
    assert hits == pytest.approx({"hits@10/r0": 100 / 3, "hits@10/r1": 200 / 3})
    found = evaluate.load(PATH, "bri", cache_dir=str(tmp_path)).compute(predictions=ranks)
    assert found == pytest.approx({"bri": dialogue_bri(np.array(ranks).T).mean()})


def test_an_unknown_metric(tmp_path):
    with pytest.raises(ValueError, match="'precision'.*recall, map, ndcg, mrr, hits, bri"):
        evaluate.load(PATH, "precision", cache_dir=str(tmp_path))
