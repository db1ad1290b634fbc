"""A stream on two real processes: rows are read once per pass, none waits, and a resumed run sees the same batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_triplets import triplet, write_parquet
from tests.training.conftest import REPOSITORY

pytestmark = pytest.mark.slow
SIZES = (14, 9, 10)  # of three files: one process has two, the other one
BATCH, STEPS, STOP = 3, 20, 13
# Trains, and resumes from a checkpoint, each with the batches that it saw.
SCRIPT = """
import hashlib, json, os, sys
from pathlib import Path
from contextcir.cli import train
from contextcir.training.trainer import CIRTrainer

take_step, seen = CIRTrainer.training_step, []

def training_step(self, model, inputs, *args):
    pixels = hashlib.sha256(inputs["pixel_values"].numpy().tobytes()).hexdigest()
    seen.append([inputs["triplet_ids"], pixels])
    return take_step(self, model, inputs, *args)

CIRTrainer.training_step = training_step
for flags, output in json.loads(sys.argv[1]):
    train.main([*flags, "--output_dir", output])
    Path(output, f"seen_{os.environ['RANK']}.json").write_text(json.dumps(seen))
    seen.clear()
    if os.environ["RANK"] == "0" and "whole" in output:
        again = Path(output.replace("whole", "again"))
        again.mkdir()
        Path(output, "checkpoint-13").rename(again / "checkpoint-13")
"""


@pytest.fixture(scope="module", params=[0, 2])
def runs(request, tmp_path_factory, clip_folder):
    folder = tmp_path_factory.mktemp("runs")
    first = 0
    for number, size in enumerate(SIZES):
        write_parquet(folder / "data", **{f"train-{number}": [triplet(row) for row in range(first, first + size)]})
        first += size
    options = {
        "clip_name_or_path": clip_folder,
        "data": folder / "data",
        "streaming": True,
        "shuffle_buffer": 5,
        "per_device_train_batch_size": BATCH,
        "max_steps": STEPS,
        "dataloader_num_workers": request.param,
        "augmentation": "crop",
        "learning_rate": 1e-3,
        "save_steps": STOP,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    flags = [f"--{option}={value}" for option, value in options.items()]
    whole, again = (str(folder / name) for name in ("whole", "again"))
    work = [(flags, whole), ([*flags, "--resume_from_checkpoint=auto"], again)]
    (folder / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(folder / "script.py"), json.dumps(work)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HOME": str(folder / "home")}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(whole), Path(again)


def seen(folder, process):
    return json.loads((folder / f"seen_{process}.json").read_text())


@pytest.mark.fault("L02", "a stream trains, and a resumed run sees the same batches, in any pass")
def test_a_resumed_run_on_two_processes_ends_with_the_same_bits(runs):
    whole, again = runs
    for process in (0, 1):
        batches = seen(whole, process)
        assert len(batches) == STEPS and batches[STOP:] == seen(again, process)
    expected = load_file(whole / "model.safetensors")
    for name, found in load_file(again / "model.safetensors").items():
        assert torch.equal(found, expected[name]), name


@pytest.mark.fault("L11", "a stream is read once per pass over all processes and workers, and none waits")
def test_two_processes_read_each_row_once_per_pass(runs):
    whole, _ = runs
    orders = [[id_ for ids, _ in seen(whole, process) for id_ in ids] for process in (0, 1)]
    # The first pass of a process ends where its ids begin to repeat.
    passes = [next(at for at in range(len(ids)) if ids[at] in ids[:at]) for ids in orders]
    positions = json.loads((whole / f"checkpoint-{STEPS}" / "stream_position.json").read_text())["processes"]
    assert all(place["pass"] >= 1 for position in positions for place in position["places"])
    if len(positions[0]["places"]) == 1:
        first = [ids[:length] for ids, length in zip(orders, passes, strict=True)]
        assert sorted(sum(first, [])) == sorted(f"t{row}" for row in range(sum(SIZES)))
