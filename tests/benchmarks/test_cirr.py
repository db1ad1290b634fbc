"""CIRR in its official layout: counts, protocol, golden values, and what its server would refuse."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from contextcir.benchmarks import cirr
from contextcir.cli import benchmark as door
from contextcir.retrieval.base import Ranking
from contextcir.retrieval.index import search
from tests.tiny_triplets import png

needs_real_data = pytest.mark.skipif("CIR_DATA_ROOT" not in os.environ, reason="CIR_DATA_ROOT is not set: no CIRR")
NAMES = [f"dev-{number}-0-img0" for number in range(60)]


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """Four queries of three image sets over sixty images, for both splits, in the official layout."""
    for split, folder in (("val", "dev"), ("test1", "test1")):
        locations = {name: f"./{folder}/{name}.png" for name in NAMES}
        rows = [
            {
                "pairid": 100 + number,
                "reference": NAMES[number],
                "target_hard": NAMES[number + 1],
                "target_soft": {NAMES[number + 2]: -1.0},
                "caption": "make the dog red",
                "img_set": {"id": number // 2, "members": NAMES[number : number + 6]},
            }
            for number in range(4)
        ]
        if split == "test1":
            rows = [{key: value for key, value in row.items() if "target" not in key} for row in rows]
        for part, prefix, content in (("captions", "cap", rows), ("image_splits", "split", locations)):
            path = tmp_path / part / f"{prefix}.rc2.{split}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content))
        (tmp_path / folder).mkdir()
        for number, name in enumerate(NAMES):
            (tmp_path / folder / f"{name}.png").write_bytes(png(number))
    monkeypatch.setattr(cirr, "OFFICIAL", dict.fromkeys(("val", "test1"), {"queries": 4, "images": 60}))
    return tmp_path


def ranked(benchmark) -> Ranking:
    """The gallery in its own order, the reference left out."""
    others = [[id_ for id_ in benchmark.gallery.ids if id_ != query.reference_id] for query in benchmark.queries]
    return Ranking(
        [query.id for query in benchmark.queries],
        [ids[:50] for ids in others],
        candidate_ids=[query.ranked_candidate_ids for query in benchmark.queries],
    )


def test_the_official_layout(mini):
    (loaded,) = cirr.load(str(mini))
    assert loaded.protocol_id == "cirr/rc2/val/reference-excluded"
    assert [query.id for query in loaded.queries] == ["100", "101", "102", "103"]  # pairid, not the image set
    assert loaded.relevance["102"] == {NAMES[3]}  # target_hard alone
    assert len(loaded.gallery) == 60  # those that are never a reference too
    assert loaded.gallery.reference_image(loaded.queries[0]).size == (34, 30)
    result = loaded.evaluate(ranked(loaded))
    assert result == {
        **{"recall@1": 25, "recall@2": 50, "recall@5": 100, "recall@10": 100, "recall@50": 100},
        **{"recall_subset@1": 100, "recall_subset@2": 100, "recall_subset@3": 100},
    }


def test_what_is_missing_or_damaged_is_named(mini):
    with pytest.raises(ValueError, match="val, test1, got 'test'"):
        cirr.load(str(mini), "test")
    for name in NAMES[3:5]:
        (mini / "dev" / f"{name}.png").unlink()
    with pytest.raises(ValueError, match="2 of 60 images are missing, such as .*dev-3-0-img0.png, .*dev-4-0"):
        cirr.load(str(mini))
    captions = mini / "captions" / "cap.rc2.val.json"
    captions.write_text(captions.read_text()[:-1])
    with pytest.raises(ValueError, match=r"cap.rc2.val.json is not JSON: .*line 1 column \d+"):
        cirr.load(str(mini))
    captions.unlink()
    with pytest.raises(ValueError, match="cap.rc2.val.json is missing"):
        cirr.load(str(mini))


def test_a_row_without_a_key_is_named(mini):
    path = mini / "captions" / "cap.rc2.val.json"
    rows = json.loads(path.read_text())
    del rows[2]["caption"]
    path.write_text(json.dumps(rows))
    with pytest.raises(
        ValueError, match="cap.rc2.val.json, row 2: expected a list of objects with caption, img_set, pairid, ref"
    ):
        cirr.load(str(mini))


def test_training_triplets(mini, monkeypatch):
    for part, prefix in (("captions", "cap"), ("image_splits", "split")):
        content = (mini / part / f"{prefix}.rc2.val.json").read_text()
        (mini / part / f"{prefix}.rc2.train.json").write_text(content)
    with pytest.raises(ValueError, match="4 queries and 60 images, the official release 28,225 queries and 16,939"):
        next(cirr.training_triplets(str(mini)))
    monkeypatch.setattr(cirr, "TRAINING", {"queries": 4, "images": 60})
    rows = list(cirr.training_triplets(str(mini)))
    assert [row["id"] for row in rows] == ["100", "101", "102", "103"]
    assert rows[1] == {
        "id": "101",
        "modification_text": "make the dog red",
        "reference_id": NAMES[1],
        "target_id": NAMES[2],  # target_hard
        "reference_image": mini / "dev" / f"{NAMES[1]}.png",
        "target_image": mini / "dev" / f"{NAMES[2]}.png",
    }
    (mini / "dev" / f"{NAMES[9]}.png").unlink()
    with pytest.raises(ValueError, match="1 of 60 images are missing"):
        next(cirr.training_triplets(str(mini)))


def test_a_truncated_split_is_refused(mini):
    path = mini / "captions" / "cap.rc2.val.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:3]))
    with pytest.raises(ValueError, match="has 3 queries and 60 images, the official release 4 queries and 60 images"):
        cirr.load(str(mini))


def test_a_gallery_without_a_target_is_refused(mini, monkeypatch):
    path = mini / "image_splits" / "split.rc2.val.json"
    locations = json.loads(path.read_text())
    del locations[NAMES[4]]  # target of one, reference of none
    path.write_text(json.dumps(locations))
    monkeypatch.setattr(cirr, "OFFICIAL", {"val": {"queries": 4, "images": 59}})
    with pytest.raises(ValueError, match="query '100' has the .*'dev-4-0-img0', which is not in the gallery"):
        cirr.load(str(mini))


def test_targets_of_test1_are_not_public(mini):
    (loaded,) = cirr.load(str(mini), "test1")
    assert not loaded.is_scored
    with pytest.raises(ValueError, match="cirr/rc2/test1/reference-excluded: the targets are not public"):
        loaded.evaluate(ranked(loaded))
    files = cirr.submission([loaded], [ranked(loaded)])
    assert sorted(files) == ["test1_recall.json", "test1_recall_subset.json"]
    for metric, length in (("recall", 50), ("recall_subset", 3)):
        content = files[f"test1_{metric}.json"]
        assert (content.pop("version"), content.pop("metric")) == ("rc2", metric)
        assert sorted(content) == ["100", "101", "102", "103"]
        assert all(len(names) == length for names in content.values())


def change(content, **changes):
    return {key: value for key, value in (content | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("metric", "changes", "message"),
    [
        ("recall", {"version": "rc1"}, "version 'rc2'"),
        ("recall", {"metric": "ndcg"}, "'ndcg'"),
        ("recall", {"102": None}, "misses 1 pairids, such as '102'"),
        ("recall", {"36": NAMES[:50]}, "invents 1 pairids, such as '36'"),  # an image set's id
        ("recall", {"100": NAMES[1:50]}, "pairid 100, holds 49 names, expected 50"),
        ("recall", {"100": [*NAMES[1:50], NAMES[1]]}, "'dev-1-0-img0' more than once"),
        ("recall", {"101": NAMES[:50]}, "holds its reference 'dev-1-0-img0'"),
        ("recall", {"100": [*NAMES[1:50], "dev-9-9-img9"]}, "'dev-9-9-img9', which is not among the gallery"),
        ("recall_subset", {"100": NAMES[1:5]}, "holds 4 names, expected 3"),
        ("recall_subset", {"100": NAMES[:3]}, "holds its reference"),
        ("recall_subset", {"100": [*NAMES[1:3], NAMES[30]]}, "'dev-30-0-img0', which is not among the members"),
    ],
)
def test_what_the_server_would_refuse_is_refused(mini, metric, changes, message):
    (loaded,) = cirr.load(str(mini), "test1")
    content = cirr.submission([loaded], [ranked(loaded)])[f"test1_{metric}.json"]
    cirr.check_submission(loaded, content)
    with pytest.raises(ValueError, match=message):
        cirr.check_submission(loaded, change(content, **changes))


def test_a_file_over_5_mb_is_refused(mini, monkeypatch):
    (loaded,) = cirr.load(str(mini), "test1")
    monkeypatch.setattr(cirr, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="the server at most 1,000"):
        cirr.submission([loaded], [ranked(loaded)])


def test_from_the_command_line(mini, run, capsys):
    record = door.main(["--retriever", str(run), "--benchmark", "cirr", "--split", "val", "--data-root", str(mini)])
    assert record["results"][0]["metrics"]["recall@50"] > 0
    arguments = ["--retriever", str(run), "--benchmark", "cirr", "--split", "test1", "--data-root", str(mini)]
    with pytest.raises(ValueError, match="not public: give --submission"):
        door.main(arguments)
    record = door.main([*arguments, "--submission", str(mini / "out")])
    assert record["results"] == []  # nothing to score
    written = json.loads((mini / "out" / "test1_recall.json").read_text())
    cirr.check_submission(*cirr.load(str(mini), "test1"), written)
    assert "test1_recall_subset.json" in capsys.readouterr().out


# --- the real thing --------------------------------------------------------------------------------------------------


@needs_real_data
def test_golden_values():
    root = Path(os.environ["CIR_DATA_ROOT"])
    (loaded,) = cirr.load(str(root / "cirr"), check_images=False)
    expected = json.loads((root / "golden/cirr_val_expected.json").read_text())["expected_exact"]
    query_embeds, gallery_embeds = (
        torch.nn.functional.normalize(torch.from_numpy(np.load(root / f"golden/cirr_val_{part}_features.npy")).float())
        for part in ("query", "index")
    )
    ids, positions = loaded.gallery.ids, loaded.gallery.positions
    exclude = torch.tensor([positions[query.reference_id] for query in loaded.queries])
    scores, indices = search(query_embeds, gallery_embeds, 50, exclude=exclude, block_size=500)
    candidates = []
    for query, embed in zip(loaded.queries, query_embeds, strict=True):
        own = query.ranked_candidate_ids
        order = (gallery_embeds[[positions[id_] for id_ in own]] @ embed).argsort(descending=True, stable=True)
        candidates.append([own[place] for place in order.tolist()])
    ranking = Ranking(
        [query.id for query in loaded.queries],
        [[ids[place] for place in row] for row in indices.tolist()],
        scores.tolist(),
        candidates,
    )
    wanted = {f"recall@{k}": value for k, value in expected["recall_percent"].items()}
    wanted |= {f"recall_subset@{k}": value for k, value in expected["recall_subset_percent"].items()}
    assert loaded.evaluate(ranking) == pytest.approx(wanted, abs=1e-9)


@needs_real_data
@pytest.mark.parametrize("metric", ["recall", "recall_subset"])
def test_files_that_the_server_accepted_are_accepted(metric):
    root = Path(os.environ["CIR_DATA_ROOT"]) / "cirr"
    (loaded,) = cirr.load(str(root), "test1", check_images=False)
    content = json.loads((root / "demo_files" / f"test1_pred_ranks_{metric}.json").read_text())
    cirr.check_submission(loaded, content)
    assert len(loaded.queries) == 4148 and len(loaded.gallery) == 2315
    assert [query.id for query in loaded.queries if not query.modification_text.strip()] == ["27098"]
    references = {query.reference_id for query in loaded.queries}
    assert len(loaded.gallery.positions.keys() - references) == 137  # never a reference, and in the gallery
