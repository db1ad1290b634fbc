"""GradCache on two processes: the gradients of all chunks, averaged over processes, are those of one large step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from contextcir.training.collator import TripletCollator
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from tests.training.conftest import KINDS, OPTIONS, REPOSITORY, undecoded
from tests.training.test_grad_cache import SHARED, assert_same

pytestmark = pytest.mark.slow
CASES = {  # kind of model, type, options
    "float32": ("contextcir", torch.float32, {"query_negatives": "all", "cc_weight": 0.5}),
    "float64": ("contextcir", torch.float64, {"cc_form": "contrastive", "isolated_grad": True}),
    "accumulated": ("contextcir", torch.float64, {"gradient_accumulation_steps": 2, "freeze_text": True}),
    "checkpointing": ("contextcir", torch.float32, {"activation_checkpointing": True, "query_negatives": "none"}),
    "clip targets": ("contextcir", torch.float32, {"query_negatives": "none", "target_encoding": "clip"}),
    "moving average": ("instructcir", torch.float32, {"ema_momentum": 0.9}),
}
SCRIPT = """
import sys
from contextcir.runtime.leaving import leave_with
from tests.training.test_grad_cache_processes import save_all

leave_with(lambda: save_all(*sys.argv[1:]))
"""


class Double:
    """A collator whose images are of a type."""

    def __init__(self, collator, dtype):
        self.collator, self.dtype = collator, dtype

    def __call__(self, rows):
        batch = self.collator(rows)
        return batch | {"pixel_values": batch["pixel_values"].to(self.dtype)}


class Keep(TrainerCallback):
    """The gradients that the optimizer gets."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def save(name, clip_folder, folder, chunk):
    """Write loss and gradients of a step on eight triplets."""
    kind, dtype, options = CASES[name]
    model_class, processor_class, needed = KINDS[kind]
    torch.manual_seed(0)
    options = dict(options)
    own = {"target_encoding": options.pop("target_encoding")} if "target_encoding" in options else {}
    model, keep = model_class.from_clip_pretrained(clip_folder, **own).to(dtype), Keep()
    processes = int(os.environ.get("WORLD_SIZE", 1))
    options = {**OPTIONS, **needed, **options, "max_steps": 1, "max_grad_norm": 0, "grad_cache_chunk": chunk}
    size = 8 // processes // options.get("gradient_accumulation_steps", 1)
    options |= {"per_device_train_batch_size": size, "train_sampling_strategy": "sequential", "optim": "sgd"}
    processor = processor_class.from_pretrained(clip_folder)
    trainer = CIRTrainer(
        model,
        CIRTrainingArguments(output_dir=str(Path(folder, f"{name}-{chunk}-{processes}")), **options),
        train_dataset=undecoded(SHARED),
        processing_class=processor,
        data_collator=Double(TripletCollator(processor, max_phrases=10 if kind == "contextcir" else 0), dtype),
        callbacks=[keep],
    )
    trainer.train()
    history = trainer.state.log_history[0]
    parts = {key: history[key] for key in history if key.startswith(("loss_", "num_", "map_")) or "entropy" in key}
    loss = torch.tensor(history["loss"])
    if trainer.is_world_process_zero():
        torch.save((loss, keep.gradients, parts), Path(folder, f"{name}-{chunk}-{processes}.pt"))


def save_all(clip_folder, folder):
    for name in CASES:
        for chunk in (None, 1 if name == "accumulated" else 3):
            save(name, clip_folder, folder, chunk)
    return 0


@pytest.fixture(scope="module")
def found(tmp_path_factory, clip_folder):
    folder = tmp_path_factory.mktemp("gradients")
    (folder / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [*launch, str(folder / "script.py"), clip_folder, str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_with_chunks_equal_two_without_and_one(found, clip_folder, name):
    tolerance = 1e-10 if CASES[name][1] == torch.float64 else 1e-5
    chunk = 1 if name == "accumulated" else 3
    cached, plain = (torch.load(found / f"{name}-{size}-2.pt") for size in (chunk, None))
    assert_same(cached, plain, tolerance)
    if name != "accumulated":  # whose micro-batches are others
        save(name, clip_folder, found, None)
        assert_same(cached, torch.load(found / f"{name}-None-1.pt"), tolerance)
