"""`accelerate launch` with the configs that ship, two processes on a CPU: DDP and FSDP2 train as one process does."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import TrainerCallback

from contextcir.benchmarks.published import load_published
from contextcir.cli.train_evaluator import BenchmarkEvaluator
from contextcir.training.checkpoints import checkpoint_problem, is_sharded
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from tests.tiny_triplets import triplets, write_benchmark
from tests.training.conftest import KINDS, OPTIONS, REPOSITORY, SAVING, undecoded

pytestmark = pytest.mark.slow
STEPS = 3
# The second of two processes has no noun phrase in its first batch.
ROWS = [row | ({"noun_phrases": []} if 4 <= place < 8 else {}) for place, row in enumerate(triplets(16))]
CASES = {  # kind of model, options
    "contextcir": ("contextcir", {"query_negatives": "all", "isolated_grad": True, "eval_on_start": True}),
    "accumulated": ("contextcir", {"gradient_accumulation_steps": 2, "activation_checkpointing": True}),
    "bf16": ("contextcir", {"bf16": True, "freeze_vision": True}),
    "instructcir": ("instructcir", {}),
    "cir_baseline": ("cir_baseline", {}),  # whose temperature begins beyond its bound
}
ADAM = {"adam": ("contextcir", {"optim": "adamw_torch", "augmentation": "crop", **SAVING})}
SCRIPT = """
import json, sys
from contextcir.runtime.leaving import leave_with
from tests.training.test_machines import train

leave_with(lambda: [train(**call) for call in json.loads(sys.argv[1])] and 0)
"""


class KillAt(TrainerCallback):
    """Kill this process in the middle of a step: its gradients are there, and its weights are not yet changed."""

    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(clip_folder, folder, name, kill_at=None, **more):
    """Train one case in this process, one of `WORLD_SIZE`, and evaluate it."""
    kind, own = (CASES | ADAM)[name]
    model_class, processor_class, needed = KINDS[kind]
    torch.manual_seed(0)
    size = 8 // int(os.environ.get("WORLD_SIZE", 1)) // own.get("gradient_accumulation_steps", 1)
    options = {**OPTIONS, **needed, "optim": "sgd", "max_steps": STEPS, "eval_strategy": "steps"}
    options |= {"per_device_train_batch_size": size, "per_device_eval_batch_size": 2, "eval_steps": STEPS}
    options |= {"train_sampling_strategy": "sequential"} | own | more
    processor = processor_class.from_pretrained(clip_folder)
    trainer = CIRTrainer(
        model_class.from_clip_pretrained(
            clip_folder, **({"logit_scale_init_value": 4.7} if kind == "cir_baseline" else {})
        ),
        CIRTrainingArguments(output_dir=str(Path(folder, name)), **options),
        train_dataset=undecoded(ROWS),
        eval_dataset=undecoded(triplets(5)),
        processing_class=processor,
        evaluator=BenchmarkEvaluator(
            load_published(write_benchmark(Path(folder, "benchmark", os.environ.get("RANK", "0"))), "validation"),
            processor,
            autocast=None,
            batch_size=2,
        ),
    )
    if kill_at is not None and os.environ.get("RANK") == "1":
        trainer.add_callback(KillAt(kill_at))
    resume = options.get("resume_from_checkpoint")
    with trainer.claim_output_dir(resume):
        trainer.train(resume_from_checkpoint=resume)
        trainer.save_model()
        trainer.evaluate()
        if trainer.is_world_process_zero():
            Path(trainer.args.output_dir, "training.json").write_text(json.dumps(trainer.record()))


def launch(config, clip_folder, folder, *calls):
    """Start two processes with a config that ships, and return how they ended."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "script.py").write_text(SCRIPT)
    calls = [{"clip_folder": clip_folder, "folder": str(folder), **call} for call in calls]
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(REPOSITORY / f"configs/accelerate/{config}.yaml"), "--num_processes", "2"]
    command += ["--main_process_port", "0", str(folder / "script.py"), json.dumps(calls)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def runs(request, tmp_path_factory, clip_folder):
    """The folder of all cases on two processes, with a config."""
    folder = tmp_path_factory.mktemp(request.param)
    done = launch(request.param, clip_folder, folder, *({"name": name} for name in CASES | ADAM))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory, clip_folder):
    """The folder of the cases on one process."""
    folder = tmp_path_factory.mktemp("one")
    for name in CASES:
        train(clip_folder, folder, name)
    return folder


def record(folder):
    return json.loads((folder / "training.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(runs, one, name):
    ours, expected = record(runs / name), record(one / name)
    assert ours["processes"] == 2 and ours["model"] == expected["model"] | {"scalars": ours["model"]["scalars"]}
    assert ours["model"]["scalars"] == pytest.approx(expected["model"]["scalars"], rel=1e-6)
    assert len(ours["history"]) == len(expected["history"])
    rough = 1e-2 if name == "bf16" else 1e-4
    for entry, other in zip(ours["history"], expected["history"], strict=True):
        timed = {key for key in other if key.endswith(("time", "per_second", "total_flos"))}
        assert set(entry) - timed == set(other) - timed
        if name == "bf16":  # images whose scores are nearly equal change places
            timed |= {key for key in other if "recall" in key}
        assert [entry[key] for key in sorted(set(other) - timed)] == pytest.approx(
            [other[key] for key in sorted(set(other) - timed)], rel=rough
        )
    assert {"eval_loss", "eval_recall@1"} <= set(ours["metrics"])

    state, whole = (load_file(folder / name / "model.safetensors") for folder in (runs, one))
    for key, value in whole.items():
        assert state[key].shape == value.shape
        assert_close(state[key], value, rtol=rough, atol=rough / 100, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", CASES | ADAM)
def test_what_is_saved_is_a_plain_model(runs, name):
    model_class, processor_class, _ = KINDS[(CASES | ADAM)[name][0]]
    for folder in (runs / name, *(runs / name).glob("checkpoint-*")):
        model = model_class.from_pretrained(folder)
        assert type(model) is model_class and model.config.architectures == [model_class.__name__]
        assert not [path for path in folder.glob("_fsdp*.py")] and (folder / "clip_config.py").exists()
        processor_class.from_pretrained(folder)


@pytest.fixture
def config(runs):
    return "fsdp2" if is_sharded(runs / "adam" / "checkpoint-1") else "ddp"


def test_a_run_whose_second_process_is_killed_goes_on_with_the_same_bits(runs, config, tmp_path, clip_folder):
    call = {"name": "adam", "resume_from_checkpoint": "auto"}
    killed = launch(config, clip_folder, tmp_path, call | {"kill_at": STEPS - 1})
    assert killed.returncode == 1 and "SIGKILL" in killed.stderr, killed.stderr[-3000:]
    assert not (tmp_path / "adam" / "training.json").exists()
    assert checkpoint_problem(tmp_path / "adam" / f"checkpoint-{STEPS - 1}") is None
    assert not (tmp_path / "adam" / f"checkpoint-{STEPS}").exists()
    resumed = launch(config, clip_folder, tmp_path, call)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    state, whole = (load_file(folder / "adam" / "model.safetensors") for folder in (tmp_path, runs))
    assert not [key for key in whole if not torch.equal(state[key], whole[key])]
    losses = [[e["loss"] for e in record(folder / "adam")["history"] if "loss" in e] for folder in (tmp_path, runs)]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS
