"""Two real processes against one: the same weights, losses and metrics."""

import json
import os
import subprocess
import sys

import datasets
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from contextcir.cli import train
from tests.tiny_triplets import mined_negatives, png, triplet, write_benchmark, write_mined, write_parquet
from tests.training.conftest import REPOSITORY

pytestmark = pytest.mark.slow
MODELS = {
    "contextcir": {"query_negatives": "all"},
    "instructcir": {"model": "instructcir", "query_negatives": "none", "cc_weight": 0, "ema_momentum": 0.9},
    "mined": {"query_negatives": "own", "hard_negatives": 2, "family_by": "reference_id"},
    "apart": {"hard_negatives": 1, "distinct_targets": True, "batch_by": "half", "num_train_epochs": 2},
}
# Trains once for each list of flags, and then a trainer whose model differs on each process at first.
SCRIPT = """
import json, os, sys, torch
from contextcir.cli.main import command
for flags in json.loads(sys.argv[1]):
    code = command("train", flags)  # train.py would end the process
    assert not code, code

from tests.tiny_triplets import dataset, triplets
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import InstructCIRModel, InstructCIRProcessor

clip, output = os.environ["CLIP"], os.environ["OUTPUT"]
torch.manual_seed(int(os.environ["RANK"]))
model = InstructCIRModel.from_clip_pretrained(clip)
options = dict(cc_weight=0, query_negatives="none", ema_momentum=0.9, max_steps=1, per_device_train_batch_size=2)
options |= dict(report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True)
args = CIRTrainingArguments(output_dir=output, **options)
processor = InstructCIRProcessor.from_pretrained(clip)
trainer = CIRTrainer(model, args, train_dataset=dataset(triplets(8)), processing_class=processor)
trainer.train()
torch.save(trainer.moving_average.model.state_dict(), os.path.join(output, "average_" + os.environ["RANK"]))
"""


# A process group, a data loader in the middle of an epoch and a pinning thread, when the program ends.
ENDS = """
import atexit, sys, threading, torch
import torch.distributed as dist
atexit.register(lambda: print(dist.is_initialized(), flush=True))  # runs after those that are registered later
import contextcir.training.trainer
from contextcir.training.loader_workers import shield_workers

dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
loader = torch.utils.data.DataLoader(range(100), num_workers=2, persistent_workers=True)
batches = iter(shield_workers(loader))
print(*(worker.pid for worker in batches._workers), next(batches).item(), flush=True)
if sys.argv[2] == "error":
    raise ValueError("all is lost")
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.fault("S09", "the process group and loaders are ended with the program, also by an error")
@pytest.mark.parametrize("end, code", [("0", 0), ("75", 75), ("error", 1)])
def test_nothing_runs_on_when_the_program_ends(tmp_path, end, code):
    command = [sys.executable, "-c", ENDS, str(tmp_path / "group"), end]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    assert done.returncode == code, done.stderr[-2000:]
    first, last = done.stdout.splitlines()
    *workers, _ = map(int, first.split())
    assert last == "False" and not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, clip_folder):
    """Folder of runs with batches of 4 on two processes and of 8 on one. Targets repeat across processes, and an image
    is broken."""
    folder = tmp_path_factory.mktemp("runs")
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
    negatives = mined_negatives(9, g1={"bytes": png(101), "path": None})
    with_negatives = [
        row | {"negative_ids": [["g1"], [f"n{place % 4}", f"n{4 + place % 5}"], []][place % 3], "half": place // 13}
        for place, row in enumerate(rows)
    ]
    mined = write_mined(folder / "mined", negatives, train=with_negatives, validation=with_negatives[:7])
    options = {
        "clip_name_or_path": clip_folder,
        "data": write_parquet(folder / "data", train=rows, validation=rows[:7]),
        "benchmark": write_benchmark(folder / "bench"),
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
    }

    def flags(name, processes):
        own = {"output_dir": folder / f"{name}-{processes}", "per_device_train_batch_size": 8 // processes}
        own |= {"data": mined} if "hard_negatives" in MODELS[name] else {}
        own |= {"per_device_train_batch_size": 4 // processes} if "distinct_targets" in MODELS[name] else {}
        return [f"--{option}={value}" for option, value in (options | MODELS[name] | own).items()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
        for name in MODELS:
            train.main(flags(name, 1))
    (folder / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(folder / "script.py"), json.dumps([flags(name, 2) for name in MODELS])]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment |= {"CLIP": clip_folder, "OUTPUT": str(folder / "average"), "HF_HOME": str(folder / "home")}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_equal_one(runs, name):
    folders = [runs / f"{name}-{processes}" for processes in (1, 2)]
    one, two = (json.loads((folder / "training.json").read_text()) for folder in folders)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["bad_images"] == two["bad_images"] == {"train": 1, "eval": 0}
    assert len(one["history"]) == len(two["history"])
    for expected, entry in zip(one["history"], two["history"], strict=True):
        timed = {key for key in expected if key.endswith(("runtime", "per_second", "_time", "total_flos"))}
        assert set(expected) - timed == set(entry) - timed
        for key in set(expected) - timed:
            assert entry[key] == pytest.approx(expected[key], rel=1e-4), key
    assert "eval_recall_subset@1" in two["metrics"]
    assert ("eval_loss_concept_consistency" in two["metrics"]) == (name != "instructcir")

    one, two = (load_file(folder / "model.safetensors") for folder in folders)
    for key, expected in one.items():
        assert_close(two[key], expected, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_the_moving_average_is_the_same_on_every_process(runs):
    first, second = (torch.load(runs / "average" / f"average_{rank}") for rank in (0, 1))
    for key, expected in first.items():
        assert_close(second[key], expected, msg=lambda text, key=key: f"{key}: {text}")
