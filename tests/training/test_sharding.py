"""What FSDP2 rests on, in one process: modules that may be gathered, checks of settings and checkpoints.
`test_machines.py` trains with it on two."""

from collections import Counter

import pytest
import torch
import torch.distributed.checkpoint as dist_cp
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import StateDictType
from transformers import Trainer

from contextcir.training.checkpoints import checkpoint_problem, last_whole_checkpoint
from contextcir.training.sharding import ShardedTraining, check_plugin
from tests.tiny_triplets import triplets
from tests.training.conftest import SAVING, folder_of

SETTINGS = {
    "fsdp_version": 2,
    "auto_wrap_policy": "NO_WRAP",
    "state_dict_type": "SHARDED_STATE_DICT",
    "cpu_ram_efficient_loading": False,
    "activation_checkpointing": False,
}


@pytest.mark.parametrize("kind", ["contextcir", "instructcir", "cir_baseline"])
def test_what_is_gathered_at_each_call_is_called_equally_often(build, kind):
    """One process may have a single short text without noun phrases, and another texts of all lengths."""
    calls = []
    long = [{"modification_text": "a red ball " * 8}, {}]
    for changes in ({"modification_text": "red", "noun_phrases": []}, None):
        rows = triplets(8, **changes) if changes else [triplets(8, **long[row % 2])[row] for row in range(8)]
        trainer, counter = build(kind, rows=rows, output=str(len(calls)), max_steps=1), Counter()
        units = trainer.model.sharding_units()
        for place, unit in enumerate(units):
            unit.register_forward_pre_hook(lambda *_, place=place, counter=counter: counter.update([place]))
        trainer.train()
        assert len(counter) == len(units) > 0
        calls.append(counter)
    assert calls[0] == calls[1]


def test_settings_with_which_models_would_hang_are_refused(monkeypatch):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")
    check_plugin(FullyShardedDataParallelPlugin(**SETTINGS))
    for changes, message in (
        ({"auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}, "fsdp_auto_wrap_policy=transformer_auto_wrap_policy"),
        ({"state_dict_type": StateDictType.FULL_STATE_DICT}, "fsdp_state_dict_type=.*FULL.*SHARDED"),
        ({"activation_checkpointing": True}, "fsdp_activation_checkpointing=True.*an option of the run"),
        ({"fsdp_version": 1}, "fsdp_version=1 instead of 2"),
        ({"cpu_ram_efficient_loading": True}, "fsdp_cpu_ram_efficient_loading=True"),
    ):
        with pytest.raises(ValueError, match=message):
            check_plugin(FullyShardedDataParallelPlugin(**SETTINGS | changes))


@pytest.mark.parametrize(
    "options",
    [{"ema_momentum": 0.9}, {"grad_cache_chunk": 2}, {"torch_compile": True, "torch_compile_backend": "eager"}],
)
def test_what_needs_the_whole_model_is_refused(build, monkeypatch, options):
    def create(self):
        Trainer.create_accelerator_and_postprocess(self)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(ShardedTraining, "create_accelerator_and_postprocess", create)
    build()
    with pytest.raises(ValueError, match=f"{next(iter(options))} needs the whole model on every process.*FSDP"):
        build(**options)
    model = build().model
    model.register_buffer("lora_scale", torch.tensor(1.0))  # as `contextcir train --lora_rank` does
    with pytest.raises(ValueError, match="lora_rank needs the whole model"):
        build(model=model)


@pytest.fixture
def checkpoint(build):
    """A checkpoint with the files of FSDP2."""
    trainer = build(max_steps=1, **SAVING)
    trainer.train()
    folder = folder_of(trainer) / "checkpoint-1"
    (folder / "optimizer.pt").unlink()
    for name in ("pytorch_model_fsdp_0", "optimizer_0"):
        dist_cp.save({"a": torch.ones(100), "b": torch.ones(7)}, checkpoint_id=folder / name, no_dist=True)
    return folder


def test_a_checkpoint_of_fsdp_is_checked(checkpoint):
    assert checkpoint_problem(checkpoint) is None
    parts = sorted((checkpoint / "optimizer_0").glob("*.distcp"))
    whole = parts[-1].read_bytes()
    parts[-1].write_bytes(whole[:-1])
    assert f"optimizer_0/{parts[-1].name} is damaged" in checkpoint_problem(checkpoint)
    parts[-1].unlink()
    assert "optimizer_0 is damaged" in checkpoint_problem(checkpoint)
    parts[-1].write_bytes(whole)
    (checkpoint / "pytorch_model_fsdp_0" / ".metadata").unlink()  # written last
    assert "pytorch_model_fsdp_0 is damaged" in checkpoint_problem(checkpoint)
    for part in (checkpoint / "pytorch_model_fsdp_0").iterdir():
        part.unlink()
    (checkpoint / "pytorch_model_fsdp_0").rmdir()
    assert checkpoint_problem(checkpoint) == "pytorch_model_fsdp_0 is missing"
    assert last_whole_checkpoint(checkpoint.parent) is None


def test_a_checkpoint_of_fsdp_is_resumed_with_it_alone(build, checkpoint):
    with pytest.raises(ValueError, match="checkpoint-1 is of a run with FSDP, this one is without it"):
        build().train(resume_from_checkpoint="auto")
