"""Two real processes against one: the same weights, losses and metrics."""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from contextcir.cli import train
from tests.tiny_triplets import png, triplet, write_benchmark, write_parquet

REPOSITORY = Path(__file__).parents[2]
MODELS = {
    "contextcir": {"query_negatives": "all"},
    "instructcir": {"model": "instructcir", "query_negatives": "none", "cc_weight": 0, "ema_momentum": 0.9},
}


@pytest.fixture(params=MODELS)
def runs(request, tmp_path, clip_folder, monkeypatch):
    """Batches of 4 on two processes and of 8 on one; targets repeat across processes, and one image is broken."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [
        triplet(
            row,
            target_id=f"g{row % 5}",
            target_image={"bytes": png(100 + row % 5), "path": None},
            reference_id=f"r{row % 7}",
            reference_image={"bytes": png(200 + row % 7), "path": None},
        )
        for row in range(25)
    ]
    rows[11]["target_image"] = {"bytes": b"", "path": None}
    options = {
        "clip_name_or_path": clip_folder,
        "data": write_parquet(tmp_path / "data", train=rows, validation=rows[:7]),
        "benchmark": write_benchmark(tmp_path / "bench"),
        "eval_split": "validation",
        "per_device_eval_batch_size": 2,
        "max_steps": 2,
        "optim": "sgd",
        "learning_rate": 1e-3,
        "augmentation": "crop",
        "on_bad_image": "skip",
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **MODELS[request.param],
    }

    def flags(name, batch):
        changed = options | {"output_dir": str(tmp_path / name), "per_device_train_batch_size": batch}
        return [f"--{option}={value}" for option, value in changed.items()]

    train.main(flags("one", 8))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    finished = subprocess.run([*command, "train.py", *flags("two", 4)], cwd=REPOSITORY, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return tmp_path / "one", tmp_path / "two"


def test_two_processes_equal_one(runs):
    one, two = (json.loads((run / "training.json").read_text()) for run in runs)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["bad_images"] == two["bad_images"] == {"train": 1, "eval": 0}
    assert len(one["history"]) == len(two["history"])
    for expected, entry in zip(one["history"], two["history"], strict=True):
        timed = {name for name in expected if name.endswith(("runtime", "per_second", "_time", "total_flos"))}
        assert set(expected) - timed == set(entry) - timed
        for name in set(expected) - timed:
            assert entry[name] == pytest.approx(expected[name], rel=1e-4), name
    with_concepts = two["model"]["class"] == "ContextCIRModel"
    assert "eval_recall_subset@1" in two["metrics"]
    assert ("eval_loss_concept_consistency" in two["metrics"]) == with_concepts

    one, two = (load_file(run / "model.safetensors") for run in runs)
    for name, expected in one.items():
        assert_close(two[name], expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


AVERAGES = """
import os, sys, torch
sys.path[:0] = {paths!r}
from tests.tiny_triplets import dataset, triplets
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import InstructCIRModel, InstructCIRProcessor

torch.manual_seed(int(os.environ["RANK"]))  # as a script does that does not think of it
model = InstructCIRModel.from_clip_pretrained({clip!r})
options = dict(cc_weight=0, query_negatives="none", ema_momentum=0.9, max_steps=1, per_device_train_batch_size=2)
options |= dict(report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True)
args = CIRTrainingArguments(output_dir={output!r}, **options)
processor = InstructCIRProcessor.from_pretrained({clip!r})
trainer = CIRTrainer(model, args, train_dataset=dataset(triplets(8)), processing_class=processor)
trainer.train()
average = trainer.moving_average.model.state_dict()
torch.save(average, os.path.join({output!r}, "average_" + os.environ["RANK"]))
"""


def test_the_moving_average_is_the_same_on_every_process(tmp_path, clip_folder):
    paths = [str(REPOSITORY), str(REPOSITORY / "tests")]
    script = AVERAGES.format(paths=paths, clip=str(clip_folder), output=str(tmp_path / "run"))
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    finished = subprocess.run([*command, str(tmp_path / "script.py")], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    first, second = (torch.load(tmp_path / "run" / f"average_{rank}") for rank in (0, 1))
    for name, expected in first.items():
        assert_close(second[name], expected, msg=lambda text, name=name: f"{name}: {text}")
