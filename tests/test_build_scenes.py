"""The published scenes: what is in the files, and that nobody has an easy way to the answer."""

import hashlib
import random

import pytest
from datasets import load_dataset

from contextcir.benchmarks import scenes as benchmark
from contextcir.scenes import apply, sample_query
from contextcir.triplets import load_triplets
from datasets_scripts import build_scenes


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    def build(name):
        folder = tmp_path_factory.mktemp(name)
        build_scenes.main(["--output", str(folder), "--num_train", "30", "--num_validation", "6", "--num_test", "12"])
        return folder

    return build("scenes"), build("again")


def test_same_arguments_same_bytes(built):
    one, other = (
        {path.relative_to(root): hashlib.sha256(path.read_bytes()).digest() for path in root.rglob("*.parquet")}
        for root in built
    )
    assert one == other
    assert len(one) == 8


def test_triplets(built):
    train = load_triplets(str(built[0]), "train", config_name="triplets", require_noun_phrases=False)
    assert len(train) == 30
    references, targets = train["reference_id"], train["target_id"]
    assert len(set(targets)) == 30  # each target is a picture of its own
    assert len(set(references)) < 20  # references are shared within a family
    assert set(references) & set(targets)  # the way back starts from a target
    picture = {
        name: image["bytes"]
        for column in ("reference", "target")
        for name, image in zip(train[f"{column}_id"], train[f"{column}_image"], strict=True)
    }
    assert len(set(picture.values())) == len(picture)


def test_the_benchmark_loads_and_every_query_has_hard_candidates(built):
    (test,) = benchmark.load(str(built[0]), "test")
    assert len(test.queries) == 12
    assert len(test.gallery) > 6 * 12
    for query in test.queries:
        assert len(query.candidate_ids) == 6
        assert query.reference_id in query.candidate_ids
        assert len(test.relevance[query.id] & set(query.candidate_ids)) == 1
        (edits,) = (tag for tag in query.tags if tag.startswith("edits:"))
        assert int(edits.removeprefix("edits:")) >= 2
    assert load_dataset(str(built[0]), "gallery", split="validation").column_names == ["id", "image"]


def test_whatever_shows_the_target_is_relevant(monkeypatch):
    # The same query twice: its target is pictured twice, and each picture answers both.
    query = sample_query(random.Random(0), 2)
    monkeypatch.setattr(build_scenes, "sample_query", lambda rng, count: query)
    (args,) = build_scenes.HfArgumentParser(build_scenes.Arguments).parse_args_into_dataclasses(["--output", "unused"])
    album, queries, relevance, triplets = build_scenes.benchmark("test", 2, args)
    targets = {row["target_id"] for row in triplets}
    assert {(row["query_id"], row["target_id"]) for row in relevance} == {
        (row["id"], target) for row in queries for target in targets
    }
    assert all(album.scenes[target] == apply(query.reference, query.edits) for target in targets)


def test_no_unseen_scene_is_trained_on():
    seen = {}
    for row in build_scenes.training_triplets(40, 0, 48, set()):
        seen[row["id"]] = row["target_image"]["bytes"]
    first = next(iter(build_scenes.sample_family(random.Random("train 0"))))
    without = list(build_scenes.training_triplets(40, 0, 48, {first.target}))
    assert without[0]["target_image"]["bytes"] != seen["train-000000"]


def test_card(built):
    card = (built[0] / "README.md").read_text()
    assert "train triplets: 30" in card
    assert "config_name: gallery" in card
