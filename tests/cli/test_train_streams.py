"""`contextcir train --streaming true` from its options to the folder that it leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from contextcir.cli import train
from tests.data.test_streamed_triplets import write_archives
from tests.loopback_hub import LoopbackHub
from tests.tiny_triplets import mined_negatives, triplet, triplets, write_mined, write_parquet
from tests.training.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture
def options(tmp_path, clip_folder):
    return {
        "clip_name_or_path": clip_folder,
        "data": write_parquet(tmp_path / "data", train=triplets(9), validation=triplets(3)),
        "streaming": "true",
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }


def flags(options):
    given = {name: value if isinstance(value, list) else [value] for name, value in options.items()}
    return [flag for name, values in given.items() for flag in (f"--{name}", *map(str, values))]


def run(options):
    metrics = train.main(flags(options))
    return metrics, json.loads(Path(options["output_dir"], "training.json").read_text())


def test_a_streamed_run_leaves_what_others_do(options):
    metrics, record = run(options | {"eval_split": "validation", "shuffle_buffer": 100})
    assert metrics["eval_loss"] > 0 and record["data"]["streaming"] is True
    assert record["arguments"]["shuffle_buffer"] == 100 and record["train_triplets"] is record["data_audit"] is None
    assert [entry["step"] for entry in record["history"] if "loss" in entry] == [1, 2, 3]
    assert "a stream of triplets" in Path(options["output_dir"], "README.md").read_text()


def test_archives_and_parquet_files_are_mixed(options, tmp_path):
    archives = write_archives(tmp_path / "archives", [triplet(row, id=f"a{row}") for row in range(8)])
    _, record = run(options | {"data": [options["data"], archives], "data_weights": [1, 1]})
    assert record["data"]["data_weights"] == [1, 1] and len([e for e in record["history"] if "loss" in e]) == 3


def test_mined_negatives_of_a_stream(options, tmp_path):
    rows = [row | {"negative_ids": ["n0", "n1"]} for row in triplets(9)]
    mined = write_mined(tmp_path / "mined", mined_negatives(2), train=rows)
    _, record = run(options | {"data": mined, "hard_negatives": 1, "max_steps": 1})
    assert record["history"][0]["loss"] > 0


@pytest.mark.fault("L12", "what a stream cannot do is refused before anything runs")
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"max_steps": -1}, "Set max_steps: one takes 4 rows"),
        ({"train_split": "train[:4]"}, "Name a whole split"),
        ({"streaming": "false", "shuffle_buffer": 10}, "shuffle_buffer is for streams"),
        ({"data_weights": 2.0}, "data_weights are"),
        ({"family_by": "reference_id"}, "family_by needs all rows in advance"),
        ({"save_strategy": "epoch"}, "Set save_strategy to steps"),
    ],
    ids=str,
)
def test_what_a_stream_cannot_do_is_refused(options, changes, message):
    with pytest.raises(ValueError, match=message):
        train.main(flags(options | changes))


PUSH_AND_TRAIN = """
import datasets, sys
from contextcir.cli import train
from contextcir.data.triplets import TRIPLET_FEATURES

rows = datasets.Dataset.from_parquet(sys.argv[1], features=TRIPLET_FEATURES)
rows.push_to_hub("tester/triplets", split="train")
try:
    train.main([*sys.argv[2:], "--max_steps", "-1"])
except ValueError as error:
    print(error)
train.main(sys.argv[2:])
"""


@pytest.mark.slow
def test_a_stream_from_the_hub(options, tmp_path):
    parquet = f"{options.pop('data')}/train-00000-of-00001.parquet"
    with LoopbackHub() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "cache"), "PYTHONPATH": str(REPOSITORY)}
        given = flags(options | {"data": "tester/triplets", "dataloader_num_workers": 1})
        command = [sys.executable, "-c", PUSH_AND_TRAIN, parquet, *given]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Set max_steps: 2 for a pass over its 9 rows" in done.stdout
    record = json.loads(Path(options["output_dir"], "training.json").read_text())
    assert len([entry for entry in record["history"] if "loss" in entry]) == 3
    assert not list(Path(tmp_path / "cache").rglob("tester___triplets/**/*.arrow"))  # there is no copy on this disk
