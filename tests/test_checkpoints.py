"""Checkpoints that a killed run left half-written are found out; resuming from them is tested in `test_trainer.py`."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers.trainer_callback import TrainerState

from contextcir.checkpoints import checkpoint_problem, last_whole_checkpoint


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
@pytest.mark.parametrize("how", ["missing", "cut", "empty"])
def test_the_last_whole_checkpoint_is_taken(run, name, how):
    last = run / "checkpoint-10"
    assert checkpoint_problem(last) is None
    assert last_whole_checkpoint(run) == str(last)  # by number: "10" sorts before "5"
    content = (last / name).read_bytes()
    (last / name).unlink()
    if how != "missing":
        (last / name).write_bytes(content[: len(content) // 2] if how == "cut" else b"")
    assert name in checkpoint_problem(last)
    assert last_whole_checkpoint(run) == str(run / "checkpoint-5")


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
