"""The scenes builder: the content of its files, the difficulty of the benchmark, and builds that are complete."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset, load_dataset

from contextcir.benchmarks import scenes as benchmark
from contextcir.cli.options import as_flags
from contextcir.data.images import load_image
from contextcir.data.triplets import load_triplets
from contextcir.retrieval.base import Ranking
from contextcir.scenes import (
    KINDS,
    VERSION,
    Picture,
    any_held_out,
    apply,
    compose,
    has_held_out_word,
    rows,
    scene_from_json,
)
from datasets_scripts import build_scenes
from tests.tiny_scenes import ALL_SPLITS, FEWEST, build
from tests.whole_card import check_card

CONFIGS = {"gallery", "queries", "relevance", "distractors", "truth", "phrases", "triplets"}


@pytest.fixture(scope="module")
def test_part(scenes):
    (part,) = benchmark.load(str(scenes), "test")
    return part


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The smallest data, for tests of the process of building."""
    return build(tmp_path_factory.mktemp("small") / "data")


def hashes(root):
    return {path.relative_to(root): hashlib.sha256(path.read_bytes()).digest() for path in root.rglob("*.*")}


@pytest.mark.slow
def test_same_arguments_same_bytes(scenes, tmp_path, request):
    options = as_flags({"output": tmp_path / "again"} | ALL_SPLITS)
    environment = os.environ | {"PYTHONHASHSEED": "1"}  # sets of strings have another order there
    command = [sys.executable, "-m", "datasets_scripts.build_scenes", *options]
    subprocess.run(command, cwd=request.config.rootpath, env=environment, check=True, capture_output=True, timeout=300)
    assert hashes(scenes) == hashes(tmp_path / "again")


def test_the_folder_holds_all_configurations(scenes):
    assert {path.name for path in scenes.iterdir()} == CONFIGS | {"README.md", "scenes.json"}


def test_triplets(scenes):
    train = load_triplets(str(scenes), "train", config_name="triplets", require_noun_phrases=False)
    assert len(train) == 60
    references, targets = train["reference_id"], train["target_id"]
    assert len(set(targets)) == 60  # each target is a picture of its own
    assert len(set(references)) < 40  # references are shared within a family
    assert set(references) & set(targets)  # the way back starts from a target
    picture = {
        name: image["bytes"]
        for column in ("reference", "target")
        for name, image in zip(train[f"{column}_id"], train[f"{column}_image"], strict=True)
    }
    assert len(set(picture.values())) == len(picture)
    assert not any(map(has_held_out_word, train["modification_text"]))
    validation = load_triplets(str(scenes), "validation", config_name="triplets", require_noun_phrases=False)
    (part,) = benchmark.load(str(scenes), "validation")
    for row, query in zip(validation, part.queries, strict=True):
        assert (row["id"], row["modification_text"]) == (query.id, query.modification_text)
        assert row["target_id"] in part.relevance[query.id]
        place = part.gallery.positions[query.reference_id]
        assert row["reference_image"]["bytes"] == part.gallery.images[place]["bytes"]


def test_gold_phrases_are_those_of_the_trees(tmp_path):
    build(tmp_path / "gold", gold_phrases=True)
    validation = load_triplets(str(tmp_path / "gold"), "validation", config_name="triplets")
    assert validation["noun_phrases"] == [
        [{"text": phrase.text, "start": phrase.start, "end": phrase.end} for phrase in question.query.noun_phrases]
        for question in compose("validation", 24, None, 0).questions
    ]


def test_the_benchmark(test_part):
    assert test_part.protocol_id == f"scenes-{VERSION}-seed0-48px/test-120-in-700/reference-excluded"
    assert (len(test_part.queries), len(test_part.gallery)) == (120, 700)
    assert set(test_part.metrics) == {"recall", "recall_subset", "map"}
    tags = {tag for query in test_part.queries for tag in query.tags}
    assert {f"edits:{n}" for n in (1, 2, 3, 4, 5)} <= tags
    assert {f"split:{n}" for n in ("iid", "combinations", "wordings", "longer", "three")} <= tags
    for query in test_part.queries:
        mistakes = test_part.distractors[query.id]
        assert mistakes[query.reference_id] == "reference"
        assert mistakes.keys() <= test_part.gallery.positions.keys()
        assert not mistakes.keys() & test_part.relevance[query.id]
        assert query.reference_id in query.candidate_ids


def test_the_truth_is_what_the_pictures_show(scenes, test_part):
    truth = benchmark.load_ground_truth(str(scenes), test_part, "test")
    composed = {question.id: question for question in compose("test", 120, 700, 0).questions}
    for query in test_part.queries:
        own, question = truth[query.id], composed[query.id]
        assert own.scene == question.query.reference
        assert apply(own.scene, question.query.edits) == question.query.target
        assert [(p.start, p.end, p.denotes) for p in own.phrases] == [
            (p.start, p.end, p.denotes) for p in question.query.noun_phrases
        ]
        assert all(query.modification_text[p.start : p.end] == p.text for p in own.phrases)
        stored = test_part.gallery.images[test_part.gallery.positions[query.reference_id]]["bytes"]
        assert stored == rows.encode(Picture(own.scene, own.nuisance), 48)["bytes"]
    truth = load_dataset("parquet", data_files=str(scenes / "truth" / "test-*.parquet"), split="train")
    assert truth["id"] == test_part.gallery.ids
    full = sum(len(test_part.relevance[query.id]) for query in test_part.queries)
    targets = {composed[query.id].query.target for query in test_part.queries}
    assert len(targets) == 120  # so that each picture of a target answers one query
    assert sum(scene_from_json(json.loads(row["scene"])) in targets for row in truth) == full


def test_scores_of_perfect_and_random_rankings_and_the_bounds_of_half_queries(scenes, test_part):
    bounds = json.loads((scenes / "scenes.json").read_text())["bounds"]
    assert bounds["recall@1"]["text"] <= 25 and bounds["recall_subset@1"]["text"] <= 50
    assert bounds["recall@1"]["image"] == pytest.approx(100 / 6) and bounds["recall_subset@1"]["image"] == 50
    for text in ("recall@1 | 25.0 | 16.7", "recall_subset@1 | 50.0 | 50.0"):
        assert text in (scenes / "README.md").read_text()

    def ranking(order):
        ranked, among = [], []
        for query in test_part.queries:
            ids = [id_ for id_ in test_part.gallery.ids if id_ != query.reference_id]
            ranked.append(sorted(ids, key=order(query))[: test_part.k])
            among.append(sorted(query.ranked_candidate_ids, key=order(query)))
        return Ranking([query.id for query in test_part.queries], ranked, candidate_ids=among)

    perfect = test_part.evaluate(ranking(lambda query: lambda id_: id_ not in test_part.relevance[query.id]))
    assert set(perfect.values()) == {100.0}
    rng = random.Random(0)
    found = [test_part.evaluate(ranking(lambda query: lambda id_: rng.random())) for _ in range(20)]
    for metric, expected in test_part.chance().items():
        assert np.mean([one[metric] for one in found]) == pytest.approx(expected, rel=0.25, abs=0.2)


def test_families_with_an_excluded_scene_are_left_out():
    made = list(rows.training_triplets(40, 0, 48, set()))
    families = random.Random("train 0")
    first = rows.sample_family(families)
    without = list(rows.training_triplets(40, 0, 48, {hash(first[-1].target)}))
    assert without[0]["target_image"]["bytes"] != made[0]["target_image"]["bytes"]


def test_no_scene_of_a_gallery_is_trained_on(monkeypatch, tmp_path):
    excluded = []
    monkeypatch.setattr(build_scenes, "training_triplets", lambda *args: excluded.append(args[-1]) or iter([]))
    build_scenes.build(build_scenes.Arguments(output="unused", **FEWEST), tmp_path)
    for part, size in (("validation", None), ("test", FEWEST["gallery_size"])):
        shown = {picture.scene for _, picture in compose(part, 24, size, 0).pictures()}
        assert {hash(scene) for scene in shown} <= excluded[0]
        assert any(any_held_out(scene.things) for scene in shown)


@pytest.mark.fault("E15", "cards of built data sets have what a complete Croissant record needs")
def test_the_card_is_complete(scenes):
    check_card(scenes)


def test_card(scenes):
    card = (scenes / "README.md").read_text()
    assert "- train triplets: 60\n" in card and "num_test 120, gallery_size 700" in card
    assert all(f"config_name: {name}" in card for name in CONFIGS)
    assert all(f"| {kind} | {mistake} | " in card for kind, mistake in KINDS.items())
    assert "{{" not in card and "{%" not in card


@pytest.fixture
def copy(small, tmp_path):
    """A copy of the smallest data, to change."""
    return shutil.copytree(small, tmp_path / "scenes")


def test_files_that_do_not_fit_together_are_refused(copy):
    path = next((copy / "phrases").glob("test-*.parquet"))
    rows = Dataset.from_parquet(str(path)).to_list()
    rows[0]["query_id"] = "test-of-another-build"
    Dataset.from_list(rows, features=Dataset.from_parquet(str(path)).features).to_parquet(path)
    (part,) = benchmark.load(str(copy), "test")
    with pytest.raises(ValueError, match="phrases .*'test-of-another-build'"):
        benchmark.load_ground_truth(str(copy), part, "test")


def test_data_of_another_version_are_refused(copy):
    record = json.loads((copy / "scenes.json").read_text())
    (copy / "scenes.json").write_text(json.dumps(record | {"version": "2.5"}))
    with pytest.raises(ValueError, match=rf"{copy} .*2\.5.*{VERSION}"):
        benchmark.load(str(copy))
    (copy / "scenes.json").unlink()  # older versions had none
    with pytest.raises(ValueError, match=f"{copy} .*scenes.json"):
        benchmark.load(str(copy))


@pytest.mark.parametrize("name", ["nobody/nothing", "not/even/a/name"])
def test_missing_data_are_named(name):
    with pytest.raises(ValueError, match=f"{name} .*scenes.json.*contextcir data scenes --output"):
        benchmark.load(name)


def test_the_record_is_read_from_the_hub_too(scenes, monkeypatch):
    asked = []
    monkeypatch.setattr(
        benchmark, "hf_hub_download", lambda *args, **kwargs: asked.append((args, kwargs)) or scenes / "scenes.json"
    )
    assert benchmark.read_record("my-name/scenes")["version"] == VERSION
    assert asked == [(("my-name/scenes", "scenes.json"), {"repo_type": "dataset"})]


def test_an_unknown_split_is_named(scenes):
    with pytest.raises(ValueError, match="test, validation.*'iid'"):
        benchmark.load(str(scenes), "iid")


def test_older_data_are_replaced_as_a_whole_and_other_files_are_kept(small, copy, tmp_path):
    (copy / "gallery" / "test-00007.parquet").write_bytes(b"of an older, larger gallery")
    build(copy)
    assert hashes(copy) == hashes(small)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]
    (copy / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=str(copy)):
        build(copy)
    assert (copy / "thesis.tex").exists()


def test_an_interrupted_build_changes_nothing(small, copy, tmp_path, monkeypatch):
    def interrupted(*args):
        yield from ()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_scenes, "training_triplets", interrupted)
        for folder in (copy, tmp_path / "new"):
            with pytest.raises(KeyboardInterrupt):
                build(folder, seed=1)
    assert hashes(copy) == hashes(small)
    assert not (tmp_path / "new").exists()
    build(tmp_path / "new")  # over the remains of the interrupted one
    assert hashes(tmp_path / "new") == hashes(small)
    assert not (tmp_path / ".new.building").exists()


@pytest.mark.parametrize(
    "option, message",
    [
        ("--num_test=100", "100.*96.*120"),
        ("--gallery_size=300", "300.*120 test.*[0-9]{3}"),
        ("--num_train=0", "num_train.* 1, got 0"),
        ("--image_size=40", "image_size.* 48, got 40"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(option, message, tmp_path):
    options = as_flags({"output": tmp_path / "data"} | ALL_SPLITS)
    with pytest.raises(ValueError, match=message):
        build_scenes.main([*options, option])
    assert not (tmp_path / "data").exists()


def test_pictures_can_be_read(test_part):
    assert load_image(test_part.gallery.images[0]).size == (48, 48)
