"""Weights that are NaN or infinite are never saved, and a full disk does not cost the old checkpoint."""

import errno
import math
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from contextcir.training.checkpoints import last_whole_checkpoint
from contextcir.training.disk import naming_a_full_disk
from tests.training.conftest import SAVING, folder_of, logged

SEQUENTIAL = {"train_sampling_strategy": "sequential"}


def break_gradient(trainer, step, value=math.nan):
    """Make one gradient NaN in one step, while the loss stays finite."""
    calls = []

    def hook(gradient):
        calls.append(1)
        return gradient * value if len(calls) == step else gradient

    trainer.model.projection.weight.register_hook(hook)


NEVER_SAVED = pytest.mark.fault("S01", "weights that are NaN or infinite are never saved; step and triplets are named")


@NEVER_SAVED
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nan_gradient_in_the_last_step_saves_nothing(build, value):
    trainer = build(max_steps=4, logging_steps=100, **SEQUENTIAL)
    break_gradient(trainer, 4, value)
    with pytest.raises(FloatingPointError, match=r"step 4 .*'t4', 't5', 't6', 't7'") as caught:
        trainer.train()
    assert math.isfinite(logged(trainer)[-1]["loss"])
    assert "resume_from_checkpoint" not in str(caught.value)  # there is no checkpoint to resume from
    with pytest.raises(FloatingPointError, match=r"step 4 .*'t4'"):
        trainer.save_model()
    assert not list(folder_of(trainer).rglob("*.safetensors"))


@NEVER_SAVED
def test_the_last_good_checkpoint_is_not_rotated_away_and_the_advice_works(build):
    trainer = build(max_steps=6, save_total_limit=1, **SAVING, **SEQUENTIAL)
    break_gradient(trainer, 4)
    with pytest.raises(FloatingPointError, match=r"step 4 .*'t4'.*resume_from_checkpoint=True"):
        trainer.train()
    assert [path.name for path in folder_of(trainer).glob("checkpoint-*")] == ["checkpoint-3"]
    resumed = build(max_steps=6, save_total_limit=1, **SAVING, **SEQUENTIAL)
    resumed.train(resume_from_checkpoint=True)
    resumed.save_model()
    saved = load_file(folder_of(resumed) / "model.safetensors")
    assert resumed.state.global_step == 6 and all(tensor.isfinite().all() for tensor in saved.values())


@NEVER_SAVED
@pytest.mark.parametrize("part", ["weight", "average"])
def test_weights_are_checked_before_every_save(build, part):
    trainer = build("instructcir", ema_momentum=0.9, **SAVING)
    broken = trainer.model if part == "weight" else trainer.moving_average.model

    class BreakWeights(TrainerCallback):  # after the step, where no gradient shows it
        def on_step_end(self, *args, **kwargs):
            with torch.no_grad():
                broken.predictor.fc2.weight[0, 0] = math.nan

    trainer.add_callback(BreakWeights())
    with pytest.raises(FloatingPointError, match="predictor.fc2.weight"):
        trainer.train()
    assert last_whole_checkpoint(folder_of(trainer)) is None and not list(
        Path(folder_of(trainer)).rglob("*.safetensors")
    )


@NEVER_SAVED
def test_fp16_skips_steps_with_infinite_gradients(build, monkeypatch):
    """With a gradient scaler, a gradient that overflows is normal: its step is skipped."""
    trainer = build(max_steps=2)
    monkeypatch.setattr(trainer.accelerator, "scaler", object())
    trainer.note_gradient_norm(torch.tensor(math.inf))
    trainer.check_finite()


DISK = pytest.mark.fault("J04", "a full disk is named with file and bytes, and costs no earlier checkpoint")


class LimitFiles(TrainerCallback):
    """From step 2 on, let no file grow beyond a number of bytes, as on a full disk."""

    def __init__(self, limit):
        self.limit = limit

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.RLIM_INFINITY))


@DISK
@pytest.mark.parametrize(
    "name, limit, momentum",
    [
        ("model.safetensors", 100_000, None),
        ("optimizer.pt", 400_000, None),
        ("moving_average.safetensors", 99_000, 0.9),
    ],
)
def test_a_full_disk_is_named_and_leaves_the_old_checkpoint(build, name, limit, momentum):
    options = {"kind": "instructcir", "ema_momentum": momentum, "max_steps": 3, "save_total_limit": 1, **SAVING}
    trainer = build(**options)
    trainer.add_callback(LimitFiles(limit))
    try:
        with pytest.raises(
            OSError, match=rf"checkpoint-2/{name} .*[\d,]+ bytes.*resume_from_checkpoint=True"
        ) as caught:
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in folder_of(trainer).glob("checkpoint-*")] == ["checkpoint-1"]
    resumed = build(**options)
    resumed.train(resume_from_checkpoint=True)
    assert [path.name for path in folder_of(resumed).glob("checkpoint-*")] == ["checkpoint-3"]


@DISK
def test_a_half_written_checkpoint_is_removed_and_other_errors_stay(tmp_path):
    with pytest.raises(OSError, match=r"new/weights .*\b400 bytes"):
        with naming_a_full_disk(tmp_path / "new", [[torch.ones(100)]]):
            (tmp_path / "new").mkdir()
            f = tmp_path / "new" / "weights"
            f.write_bytes(b"half")
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    assert not (tmp_path / "new").exists()
    with pytest.raises(OSError, match="old/weights"):
        with naming_a_full_disk(tmp_path, []):
            (tmp_path / "old").mkdir()
            with naming_a_full_disk(tmp_path / "old", []):
                path = tmp_path / "old" / "weights"
                path.write_bytes(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "old" / "weights").exists()
    with pytest.raises(PermissionError), naming_a_full_disk(tmp_path, []):
        raise PermissionError(errno.EACCES, "not allowed")
