"""Checkpoints that are half-written, damaged or hold no numbers are found out; `test_trainer.py` resumes from them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers.trainer_callback import TrainerState

from contextcir.training.checkpoints import checkpoint_problem, last_whole_checkpoint


@pytest.fixture
def run(tmp_path):
    """Whole checkpoints at steps 5 and 10."""
    first = tmp_path / "checkpoint-5"
    first.mkdir()
    save_file({"weight": torch.ones(30, 30)}, first / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(30)}, first / name)
    TrainerState(global_step=5).save_to_json(first / "trainer_state.json")
    (first / "config.json").write_text(json.dumps({"model_type": "contextcir"}))
    shutil.copytree(first, tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-best").mkdir()
    return tmp_path


FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "cut", "empty", "zeros"])
def test_the_last_whole_checkpoint_is_taken(run, name, how):
    last = run / "checkpoint-10"
    assert checkpoint_problem(last) is None
    assert last_whole_checkpoint(run) == str(last)  # by number: "10" sorts before "5"
    content = (last / name).read_bytes()
    (last / name).unlink()
    if how != "missing":
        damaged = {"cut": content[: len(content) // 2], "empty": b"", "zeros": bytes(len(content))}
        (last / name).write_bytes(damaged[how])
    assert name in checkpoint_problem(last)
    assert last_whole_checkpoint(run) == str(run / "checkpoint-5")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_hole_in_the_middle_is_found(run, name):
    path = run / "checkpoint-10" / name
    content = bytearray(path.read_bytes())
    middle = content.index(torch.ones(30).numpy().tobytes())
    content[middle : middle + 8] = bytes(8)
    path.write_bytes(content)
    torch.load(path)  # which does not compare checksums
    assert checkpoint_problem(run / "checkpoint-10").startswith(f"{name} is damaged (in ")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(run, value):
    weights = torch.ones(30, 30)
    weights[3, 4] = value
    save_file({"bias": torch.ones(3), "weight": weights}, run / "checkpoint-10" / "model.safetensors")
    problem = "model.safetensors holds NaN or infinite values in weight"
    assert checkpoint_problem(run / "checkpoint-10") == problem
    assert last_whole_checkpoint(run) == str(run / "checkpoint-5")


def test_tensors_that_the_model_needs(run):
    assert checkpoint_problem(run / "checkpoint-10", {"weight"}) is None
    assert last_whole_checkpoint(run, {"weight"}) == str(run / "checkpoint-10")
    needed = {"weight", *"abcd"}
    assert checkpoint_problem(run / "checkpoint-10", needed) == (
        "model.safetensors lacks the tensors a, b, c and 1 more"
    )
    assert last_whole_checkpoint(run, needed) is None


@pytest.mark.parametrize(
    "name, content, problem",
    [
        ("config.json", "[]", "it holds a list"),
        ("trainer_state.json", "[]", ""),
        ("model.safetensors.index.json", "{}", "it has no weight_map"),
        ("model.safetensors.index.json", "[]", "it holds a list"),
        ("model.safetensors.index.json", '{"weight_map": []}', "it has no weight_map"),
    ],
)
def test_json_that_is_something_else(run, name, content, problem):
    (run / "checkpoint-10" / name).write_text(content)
    assert checkpoint_problem(run / "checkpoint-10").startswith(f"{name} is damaged ({problem}")
    assert last_whole_checkpoint(run) == str(run / "checkpoint-5")


@pytest.mark.parametrize("there, missing", [("0 1", None), ("0 1 2", None), ("0", "1"), ("1", "0"), ("0 2", "1")])
def test_every_process_has_its_random_state(run, there, missing):
    last = run / "checkpoint-10"
    state = (last / "rng_state.pth").read_bytes()
    (last / "rng_state.pth").unlink()
    for number in there.split():
        (last / f"rng_state_{number}.pth").write_bytes(state)
    assert checkpoint_problem(last) == (missing and f"rng_state_{missing}.pth is missing")


def test_shards_are_looked_at_one_by_one(run):
    last = run / "checkpoint-10"
    (last / "model.safetensors").rename(last / "model-1.safetensors")
    shards = {"weight": "model-1.safetensors", "bias": "model-2.safetensors"}
    (last / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert checkpoint_problem(last) == "model-2.safetensors is missing"
    shutil.copy(last / "model-1.safetensors", last / "model-2.safetensors")
    assert checkpoint_problem(last) is None


def test_nothing_to_resume_from(tmp_path):
    assert last_whole_checkpoint(tmp_path) is None
    assert last_whole_checkpoint(tmp_path / "nowhere") is None
    assert checkpoint_problem(tmp_path / "nowhere") == "no such folder"
