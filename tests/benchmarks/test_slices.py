"""Slices of real annotation files, measured against independent loops."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from contextcir.benchmarks import cirr, visdial
from contextcir.metrics.dialogues import dialogue_bri, dialogue_hits_at_k
from contextcir.retrieval.ranking import rank
from tests.benchmarks.layouts import golden_embeds, write

FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_cirr(monkeypatch):
    root = FIXTURES / "cirr"
    rows = json.loads((root / "captions/cap.rc2.val.json").read_text())
    names = list(json.loads((root / "image_splits/split.rc2.val.json").read_text()))
    monkeypatch.setitem(cirr.OFFICIAL, "val", {"queries": len(rows), "images": len(names)})
    (benchmark,) = cirr.load(str(root), check_images=False)
    queries, gallery = golden_embeds(root)
    found = benchmark.evaluate(rank(benchmark.queries, benchmark.gallery, queries, gallery, 50, True))

    above = []  # number of images of the gallery, and of the image set, above the target
    for row, query in zip(rows, queries, strict=True):
        scores = dict(zip(names, (gallery @ query).tolist(), strict=True))
        of_target = scores[row["target_hard"]]
        others = [name for name in names if name not in (row["reference"], row["target_hard"])]
        members = [name for name in row["img_set"]["members"] if name in others]
        above.append([sum(scores[name] > of_target for name in some) for some in (others, members)])
    for place, (metric, ks) in enumerate((("recall", (1, 2, 5, 10, 50)), ("recall_subset", (1, 2, 3)))):
        for k in ks:
            expected = 100 * sum(counts[place] < k for counts in above) / len(rows)
            assert found[f"{metric}@{k}"] == pytest.approx(expected), f"{metric}@{k}"
    assert 0 < found["recall@1"] < found["recall@10"] < 100 and 0 < found["recall_subset@1"] < 100
    never = set(names) - {row["reference"] for row in rows}
    assert len(never) > 6 and never < set(benchmark.gallery.ids)


def test_visdial(tmp_path, monkeypatch):
    root = FIXTURES / "visdial"
    shutil.copytree(root / "dialogues", tmp_path / "dialogues")
    rows = json.loads((root / "dialogues/VisDial_v1.0_queries_val.json").read_text())
    space = [*sorted({row["img"] for row in rows}), *(f"unlabeled2017/{number:012d}.jpg" for number in range(20))]
    write(tmp_path / "Protocol/Search_Space_val_50k.json", space)
    monkeypatch.setitem(visdial.OFFICIAL, "val", {"dialogues": len(rows), "images": len(space)})
    (benchmark,) = visdial.load(str(tmp_path), check_images=False)
    assert len(benchmark.queries) == 11 * len(rows) and benchmark.unit_ids == ["0", "1", "2"]
    assert benchmark.queries[11 + 2].modification_text == ", ".join(rows[1]["dialog"][:3])
    assert benchmark.wanted["2/10"] == rows[2]["img"]

    ranks = np.array(json.loads((root / "ranks.json").read_text()))  # (rounds, dialogues)
    for number in range(11):
        expected = 100 * np.mean([min(ranks[: number + 1, dialogue]) < 10 for dialogue in range(3)])
        assert dialogue_hits_at_k(ranks, 10).mean(axis=1)[number] == pytest.approx(expected)
    best = [[min(ranks[: number + 1, dialogue]) for number in range(11)] for dialogue in range(3)]
    steps = [(math.log(a + 1) + math.log(b + 1)) / 2 for some in best for a, b in zip(some, some[1:], strict=False)]
    assert dialogue_bri(ranks).mean() == pytest.approx(sum(steps) / len(steps))
