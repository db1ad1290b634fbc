"""From the authors' layout to a Hugging Face dataset and back, without loss."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

from contextcir.benchmarks import cirr
from contextcir.benchmarks.published import load_published
from contextcir.data.triplets import load_triplets
from datasets_scripts import build_published
from tests.benchmarks.test_cirr import NAMES, mini  # noqa: F401 (a fixture)
from tests.loopback_hub import LoopbackHub
from tests.whole_card import check_card

PUSH_AND_LOAD = """
import sys
from contextcir.benchmarks import cirr
from contextcir.benchmarks.published import load_published
from contextcir.data.triplets import load_triplets
from datasets_scripts import build_published

root, output = sys.argv[1:]
cirr.OFFICIAL = dict.fromkeys(("val", "test1"), {"queries": 4, "images": 60})
cirr.TRAINING = {"queries": 4, "images": 60}
build_published.main(
    ["--benchmark", "cirr", "--data_root", root, "--output", output, "--push_to_hub", "tester/cirr"]
)
(before,), after = cirr.load(root), load_published("tester/cirr", "val")
assert after.gallery.ids == before.gallery.ids and after.relevance == before.relevance
assert after.queries == before.queries
assert after.gallery.image(before.gallery.ids[3]).tobytes() == before.gallery.image(before.gallery.ids[3]).tobytes()
triplets = load_triplets("tester/cirr", "train", config_name="triplets", require_noun_phrases=False)
assert triplets["target_id"] == [query["target_id"] for query in cirr.training_triplets(root)]
"""


@pytest.fixture
def with_training_data(mini):  # noqa: F811
    for part, prefix in (("captions", "cap"), ("image_splits", "split")):
        content = (mini / part / f"{prefix}.rc2.val.json").read_text()
        (mini / part / f"{prefix}.rc2.train.json").write_text(content)
    return mini


@pytest.fixture
def built(with_training_data, tmp_path, monkeypatch):
    monkeypatch.setattr(cirr, "TRAINING", {"queries": 4, "images": 60})
    root, output = with_training_data, tmp_path / "published"
    counts = build_published.main(["--benchmark", "cirr", "--data_root", str(root), "--output", str(output)])
    return root, output, counts


def test_the_published_benchmark_equals_the_original(built):
    root, output, counts = built
    assert counts == {
        **{f"gallery {split}": 60 for split in ("val", "test1")},
        **{f"queries {split}": 4 for split in ("val", "test1")},
        **{"relevance val": 4, "relevance test1": 0, "triplets train": 4},
    }
    (before,), after = cirr.load(str(root)), load_published(str(output), "val")
    assert after.gallery.ids == before.gallery.ids
    assert after.queries == before.queries and after.relevance == before.relevance
    assert after.gallery.image(NAMES[3]).tobytes() == before.gallery.image(NAMES[3]).tobytes()
    assert not load_published(str(output), "test1").is_scored


def test_triplets_can_be_trained_on(built):
    root, output, _ = built
    triplets = load_triplets(str(output / "triplets"), "train", require_noun_phrases=False)
    assert triplets["id"] == ["100", "101", "102", "103"]
    assert triplets[2]["target_image"]["bytes"] == (root / "dev" / f"{NAMES[3]}.png").read_bytes()


@pytest.mark.fault("E15", "cards of built data sets have what a complete Croissant record needs")
def test_the_card_is_complete(built):
    check_card(built[1])


def test_the_card_names_source_licence_and_counts(built):
    _, output, _ = built
    card = (output / "README.md").read_text()
    for part in (cirr.SOURCE, cirr.LICENCE, "liu2021cirr", "triplets train: 4", "gallery val: 60"):
        assert part in card, part
    loaded = load_dataset(str(output), "queries", split="test1")  # the card's configurations are those of the files
    assert len(loaded) == 4


@pytest.mark.slow
def test_the_pushed_benchmark_equals_the_original(with_training_data, tmp_path):
    with LoopbackHub() as hub:
        subprocess.run(
            [sys.executable, "-c", PUSH_AND_LOAD, str(with_training_data), str(tmp_path / "published")],
            env=os.environ | hub.environment(tmp_path / "cache"),
            cwd=Path(__file__).parents[2],
            check=True,
        )
        assert not hub.unknown_requests
        assert "liu2021cirr" in hub.files("dataset", "tester/cirr")["README.md"].decode()


def test_other_counts_and_splits_are_refused(mini, tmp_path):  # noqa: F811
    path = mini / "captions" / "cap.rc2.val.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:3]))
    arguments = ["--benchmark", "cirr", "--data_root", str(mini), "--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="3 queries"):
        build_published.main([*arguments, "--splits", "val"])
    with pytest.raises(ValueError, match="val, test1, train.*'test'"):
        build_published.main([*arguments, "--splits", "test"])
    with pytest.raises(ValueError, match="'coco'.*cirr, circo"):
        build_published.main([*arguments, "--benchmark", "coco"])
