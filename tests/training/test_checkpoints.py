"""Checkpoints that are half-written, damaged or hold NaN are recognised; `test_run.py` resumes from them."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers.trainer_callback import TrainerState

from contextcir.training.checkpoints import checkpoint_problem, last_whole_checkpoint


def write_checkpoint(folder):
    """A whole checkpoint of step 5."""
    folder.mkdir()
    save_file({"weight": torch.ones(30, 30)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(30)}, folder / name)
    TrainerState(global_step=5).save_to_json(folder / "trainer_state.json")
    (folder / "config.json").write_text(json.dumps({"model_type": "contextcir"}))


@pytest.fixture
def run(tmp_path):
    """Whole checkpoints at steps 5 and 10."""
    first = tmp_path / "checkpoint-5"
    write_checkpoint(first)
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
def test_damage_in_the_middle_of_a_file_is_found(run, name):
    path = run / "checkpoint-10" / name
    content = bytearray(path.read_bytes())
    middle = content.index(torch.ones(30).numpy().tobytes())
    content[middle : middle + 8] = bytes(8)
    path.write_bytes(content)
    torch.load(path)  # which does not compare checksums
    assert name in checkpoint_problem(run / "checkpoint-10")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_must_be_finite(run, value):
    weights = torch.ones(30, 30)
    weights[3, 4] = value
    save_file({"bias": torch.ones(3), "weight": weights}, run / "checkpoint-10" / "model.safetensors")
    assert re.search(r"model.safetensors.*\bweight$", checkpoint_problem(run / "checkpoint-10"))
    assert last_whole_checkpoint(run) == str(run / "checkpoint-5")


def test_all_tensors_of_the_model_must_be_present(run):
    assert checkpoint_problem(run / "checkpoint-10", {"weight"}) is None
    assert last_whole_checkpoint(run, {"weight"}) == str(run / "checkpoint-10")
    needed = {"weight", *"abcd"}
    assert re.search(r"model.safetensors.* a, b, c .*\b1\b", checkpoint_problem(run / "checkpoint-10", needed))
    assert last_whole_checkpoint(run, needed) is None


@pytest.mark.parametrize(
    "name, content, problem",
    [
        ("config.json", "[]", "list"),
        ("trainer_state.json", "[]", ""),
        ("model.safetensors.index.json", "{}", "weight_map"),
        ("model.safetensors.index.json", "[]", "list"),
        ("model.safetensors.index.json", '{"weight_map": []}', "weight_map"),
    ],
)
def test_json_of_another_form(run, name, content, problem):
    (run / "checkpoint-10" / name).write_text(content)
    assert re.search(f"^{name}.*{problem}", checkpoint_problem(run / "checkpoint-10"))
    assert last_whole_checkpoint(run) == str(run / "checkpoint-5")


@pytest.mark.parametrize("there, missing", [("0 1", None), ("0 1 2", None), ("0", "1"), ("1", "0"), ("0 2", "1")])
def test_every_process_has_its_random_state(run, there, missing):
    last = run / "checkpoint-10"
    state = (last / "rng_state.pth").read_bytes()
    (last / "rng_state.pth").unlink()
    for number in there.split():
        (last / f"rng_state_{number}.pth").write_bytes(state)
    problem = checkpoint_problem(last)
    assert f"rng_state_{missing}.pth" in problem if missing else problem is None


def test_every_shard_is_checked(run):
    last = run / "checkpoint-10"
    (last / "model.safetensors").rename(last / "model-1.safetensors")
    shards = {"weight": "model-1.safetensors", "bias": "model-2.safetensors"}
    (last / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "model-2.safetensors" in checkpoint_problem(last)
    shutil.copy(last / "model-1.safetensors", last / "model-2.safetensors")
    assert checkpoint_problem(last) is None
    assert "average.safetensors" in checkpoint_problem(last, others={"average.safetensors": ["weight"]})
    shutil.copy(last / "model-1.safetensors", last / "average.safetensors")
    assert checkpoint_problem(last, others={"average.safetensors": ["weight"]}) is None
    assert "bias" in checkpoint_problem(last, others={"average.safetensors": ["bias"]})


def test_nothing_to_resume_from(tmp_path):
    assert last_whole_checkpoint(tmp_path) is None
    assert last_whole_checkpoint(tmp_path / "nowhere") is None
    assert checkpoint_problem(tmp_path / "nowhere")
