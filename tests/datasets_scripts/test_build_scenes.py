"""The published scenes: what is in the files, that nobody has an easy way to the answer, and that a build is whole."""

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
from contextcir.data.images import load_image
from contextcir.data.triplets import load_triplets
from contextcir.retrieval.base import Ranking
from contextcir.scenes import VERSION, Picture, any_held_out, apply, compose, has_held_out_word, scene_from_json
from datasets_scripts import build_scenes

SMALL = {"num_train": 60, "num_validation": 24, "num_test": 120, "gallery_size": 700, "image_size": 48}
OPTIONS = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
CONFIGS = {"gallery", "queries", "relevance", "distractors", "truth", "phrases", "triplets"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "data"
    build_scenes.main(["--output", str(folder), *OPTIONS])
    return folder


@pytest.fixture(scope="module")
def test_part(built):
    (part,) = benchmark.load(str(built), "test")
    return part


def hashes(root):
    return {path.relative_to(root): hashlib.sha256(path.read_bytes()).digest() for path in root.rglob("*.*")}


def test_same_arguments_same_bytes(built, tmp_path, request):
    # In a process where sets of strings have another order.
    command = [sys.executable, "-m", "datasets_scripts.build_scenes", "--output", str(tmp_path / "again"), *OPTIONS]
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    subprocess.run(command, cwd=request.config.rootpath, env=environment, check=True, capture_output=True, timeout=300)
    assert hashes(built) == hashes(tmp_path / "again")
    assert {path.name for path in built.iterdir()} == CONFIGS | {"README.md", "scenes.json"}


def test_triplets(built):
    train = load_triplets(str(built), "train", config_name="triplets", require_noun_phrases=False)
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
    validation = load_triplets(str(built), "validation", config_name="triplets", require_noun_phrases=False)
    (part,) = benchmark.load(str(built), "validation")
    for row, query in zip(validation, part.queries, strict=True):
        assert (row["id"], row["modification_text"]) == (query.id, query.modification_text)
        assert row["target_id"] in part.relevance[query.id]
        place = part.gallery.positions[query.reference_id]
        assert row["reference_image"]["bytes"] == part.gallery.images[place]["bytes"]


def test_gold_phrases_are_those_of_the_trees(tmp_path):
    few = {**SMALL, "num_train": 30, "num_test": 24, "gallery_size": 250}
    options = [word for name, value in few.items() for word in (f"--{name}", str(value))]
    build_scenes.main(["--output", str(tmp_path / "gold"), *options, "--gold_phrases", "true"])
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


def test_the_truth_is_what_the_pictures_show(built, test_part):
    truth = benchmark.load_ground_truth(str(built), test_part, "test")
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
        assert stored == build_scenes.encode(Picture(own.scene, own.nuisance), 48)["bytes"]
    rows = load_dataset("parquet", data_files=str(built / "truth" / "test-*.parquet"), split="train")
    assert rows["id"] == test_part.gallery.ids
    full = sum(len(test_part.relevance[query.id]) for query in test_part.queries)
    targets = {composed[query.id].query.target for query in test_part.queries}
    assert len(targets) == 120  # so that each picture of a target answers one query
    assert sum(scene_from_json(json.loads(row["scene"])) in targets for row in rows) == full


def test_oracles(built, test_part):
    """Everything, random, and what the build says of halves."""
    bounds = json.loads((built / "scenes.json").read_text())["bounds"]
    assert bounds["recall@1"]["text"] <= 25 and bounds["recall_subset@1"]["text"] <= 50
    assert bounds["recall@1"]["image"] == pytest.approx(100 / 6) and bounds["recall_subset@1"]["image"] == 50
    for text in ("recall@1 | 25.0 | 16.7", "recall_subset@1 | 50.0 | 50.0"):
        assert text in (built / "README.md").read_text()

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


def test_no_unseen_scene_is_trained_on(built):
    made = list(build_scenes.training_triplets(40, 0, 48, set()))
    families = random.Random("train 0")
    first = build_scenes.sample_family(families)
    without = list(build_scenes.training_triplets(40, 0, 48, {hash(first[-1].target)}))
    assert without[0]["target_image"]["bytes"] != made[0]["target_image"]["bytes"]


def test_whatever_is_in_a_gallery_is_unseen(monkeypatch, tmp_path):
    handed = []
    monkeypatch.setattr(build_scenes, "training_triplets", lambda *args: handed.append(args[-1]) or iter([]))
    build_scenes.build(build_scenes.Arguments(output="unused", **SMALL | {"num_test": 24}), tmp_path)
    for part, number, size in (("validation", 24, None), ("test", 24, 700)):
        shown = {picture.scene for _, picture in compose(part, number, size, 0).pictures()}
        assert {hash(scene) for scene in shown} <= handed[0]
        assert any(any_held_out(scene.things) for scene in shown)


def test_card(built):
    card = (built / "README.md").read_text()
    assert "- train triplets: 60\n" in card and "num_test 120, gallery_size 700" in card
    assert all(f"config_name: {name}" in card for name in CONFIGS)
    assert "| binding | two things have exchanged an attribute | " in card
    assert "{{" not in card and "{%" not in card


def copy_of(built, tmp_path):
    return shutil.copytree(built, tmp_path / "scenes")


def test_files_that_do_not_fit_together_are_refused(built, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(built, folder)
    path = next((folder / "phrases").glob("test-*.parquet"))
    rows = Dataset.from_parquet(str(path)).to_list()
    rows[0]["query_id"] = "test-of-another-build"
    Dataset.from_list(rows, features=Dataset.from_parquet(str(path)).features).to_parquet(path)
    (part,) = benchmark.load(str(folder), "test")
    with pytest.raises(ValueError, match="phrases speak of 'test-of-another-build', which is not in the other files"):
        benchmark.load_ground_truth(str(folder), part, "test")


def test_data_of_another_version_are_refused(built, tmp_path):
    folder = copy_of(built, tmp_path)
    record = json.loads((folder / "scenes.json").read_text())
    (folder / "scenes.json").write_text(json.dumps(record | {"version": "2.5"}))
    with pytest.raises(ValueError, match="has version 2.5 of scenes, and this is version .*Build it again"):
        benchmark.load(str(folder))
    (folder / "scenes.json").unlink()  # older versions had none
    with pytest.raises(ValueError, match="has no scenes.json"):
        benchmark.load(str(folder))


@pytest.mark.parametrize("name", ["nobody/nothing", "not/even/a/name"])
def test_what_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=f"{name} has no scenes.json.*build_scenes.py --output FOLDER"):
        benchmark.load(name)


def test_the_record_is_read_from_the_hub_too(built, monkeypatch):
    asked = []
    monkeypatch.setattr(
        benchmark, "hf_hub_download", lambda *args, **kwargs: asked.append((args, kwargs)) or built / "scenes.json"
    )
    assert benchmark.read_record("my-name/scenes")["version"] == VERSION
    assert asked == [(("my-name/scenes", "scenes.json"), {"repo_type": "dataset"})]


def test_an_unknown_split_is_named(built):
    with pytest.raises(ValueError, match="scenes has the splits test, validation, got 'iid'"):
        benchmark.load(str(built), "iid")


def test_other_data_are_replaced_as_a_whole_and_nothing_else_is(built, tmp_path):
    folder = copy_of(built, tmp_path)
    (folder / "gallery" / "test-00007.parquet").write_bytes(b"of an older, larger gallery")
    build_scenes.main(["--output", str(folder), *OPTIONS])
    assert hashes(folder) == hashes(built)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="is no scenes data, or not alone"):
        build_scenes.main(["--output", str(folder), *OPTIONS])
    assert (folder / "thesis.tex").exists()


def test_an_interrupted_build_leaves_what_was_there(built, tmp_path, monkeypatch):
    folder = copy_of(built, tmp_path)

    def interrupted(*args):
        yield from ()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_scenes, "training_triplets", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_scenes.main(["--output", str(folder), *OPTIONS, "--seed", "1"])
        with pytest.raises(KeyboardInterrupt):
            build_scenes.main(["--output", str(tmp_path / "new"), *OPTIONS])
    assert hashes(folder) == hashes(built)
    assert not (tmp_path / "new").exists()
    build_scenes.main(["--output", str(tmp_path / "new"), *OPTIONS])  # over what the interrupted one has left
    assert hashes(tmp_path / "new") == hashes(built)
    assert not (tmp_path / ".new.building").exists()


@pytest.mark.parametrize(
    "option, message",
    [
        ("--num_test=100", "can be 96 or 120 test queries, not 100"),
        ("--gallery_size=300", "120 test queries need a gallery of [0-9]+ pictures or more, not 300"),
        ("--num_train=0", "num_train must be at least 1"),
        ("--image_size=40", "image_size must be at least 48, got 40"),
    ],
)
def test_what_cannot_be_is_named_before_anything_is_written(option, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build_scenes.main(["--output", str(tmp_path / "data"), *OPTIONS, option])
    assert not (tmp_path / "data").exists()


def test_pictures_can_be_read(test_part):
    assert load_image(test_part.gallery.images[0]).size == (48, 48)
