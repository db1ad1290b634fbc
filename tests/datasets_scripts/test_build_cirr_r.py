"""CIRR's training pairs: the file of pairs, and its captions."""

import json
import random

import pytest

from contextcir.benchmarks import cirr
from contextcir.data.pairs import read_pairs
from contextcir.data.triplets import load_triplets
from contextcir.scenes import render, sample_query
from contextcir.scenes.oracle import Oracle
from contextcir.scenes.truth import Truth
from datasets_scripts import build_cirr_r


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Three annotations of two pairs of scenes in CIRR's layout, and the truth about them."""
    rng, truth, rows, locations = random.Random(1), Truth(), [], {}
    for number in range(2):
        query = sample_query(rng, 3)
        for side, scene in (("reference", query.reference), ("target", query.target)):
            name = f"train-{number}-{side}-img0"
            locations[name] = f"./train/{number}/{name}.png"
            (tmp_path / "cirr" / "train" / str(number)).mkdir(parents=True, exist_ok=True)
            picture = render(scene, rng.randrange(1000))
            picture.save(tmp_path / "cirr" / locations[name])
            truth.add(picture, scene)
        named = {"reference": f"train-{number}-reference-img0", "target_hard": f"train-{number}-target-img0"}
        for text in [f"text {number}", "another"][: 2 - number]:
            members = {"members": list(named.values())}
            rows.append({"pairid": len(rows), "caption": text, "img_set": members, "target_soft": {}, **named})
    for part, prefix, content in (("captions", "cap", rows), ("image_splits", "split", locations)):
        (tmp_path / "cirr" / part).mkdir()
        (tmp_path / "cirr" / part / f"{prefix}.rc2.train.json").write_text(json.dumps(content))
    monkeypatch.setattr(cirr, "TRAINING", {"queries": 3, "images": 4})
    return tmp_path, truth


def build(root, *options):
    return build_cirr_r.main(["--data_root", str(root[0]), "--output", str(root[0] / "out"), *options])


def test_pairs_keep_ids_and_the_human_caption(root, capsys):
    assert build(root) == 0
    assert capsys.readouterr().out.startswith("2 pairs")
    pairs = read_pairs(str(root[0] / "out" / "pairs.json"))
    assert [(pair.reference_id, pair.target_id, pair.original_caption) for pair in pairs] == [
        ("train-0-reference-img0", "train-0-target-img0", "text 0"),  # the first of two annotations
        ("train-1-reference-img0", "train-1-target-img0", "text 1"),
    ]


@pytest.mark.slow
def test_with_a_model_the_pairs_are_captioned(root):
    output = root[0] / "out"
    with Oracle(root[1]) as url:
        assert build(root, "--model", "oracle", "--base_url", url, "--free") == 0
    lines = [json.loads(line) for line in (output / "pairs.jsonl").read_text().splitlines()]
    assert [line["original_caption"] for line in lines] == ["text 0", "text 1"]
    triplets = load_triplets(str(output / "triplets"))
    assert set(triplets["reference_id"]) == {"train-0-reference-img0", "train-1-reference-img0"}


def test_another_release_is_refused(root, monkeypatch):
    monkeypatch.setattr(cirr, "TRAINING", {"queries": 28_225, "images": 16_939})
    with pytest.raises(ValueError, match="3.*28,225"):
        build(root)
    assert not (root[0] / "out").exists()
