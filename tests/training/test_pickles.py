"""Checkpoints are resumed without running code from them: states are read with `weights_only`."""

import os
import pickle
import zipfile

import pytest

from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from tests.tiny_triplets import dataset, triplets


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def make(clip_folder, folder):
    args = {"per_device_train_batch_size": 2, "max_steps": 2, "save_steps": 1, "report_to": "none", "use_cpu": True}
    return CIRTrainer(
        ContextCIRModel.from_clip_pretrained(clip_folder),
        CIRTrainingArguments(output_dir=str(folder), disable_tqdm=True, **args),
        train_dataset=dataset(triplets(4)),
        processing_class=ContextCIRProcessor.from_pretrained(clip_folder),
    )


@pytest.mark.slow
@pytest.mark.fault("P06", "optimizer, schedule and random states of a checkpoint run no code when a run is resumed")
def test_states_run_no_code(clip_folder, tmp_path):
    make(clip_folder, tmp_path / "run").train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        good, ran = (checkpoint / name).read_bytes(), tmp_path / f"ran {name}"
        with zipfile.ZipFile(checkpoint / name) as archive:
            content = {entry: archive.read(entry) for entry in archive.namelist()}
        with zipfile.ZipFile(checkpoint / name, "w") as archive:
            for entry, data in content.items():
                archive.writestr(entry, pickle.dumps(Bomb(ran)) if entry.endswith("data.pkl") else data)
        with pytest.raises(pickle.UnpicklingError, match="[Ww]eights.only"):
            make(clip_folder, tmp_path / "again").train(resume_from_checkpoint=str(checkpoint))
        assert not ran.exists()
        (checkpoint / name).write_bytes(good)


@pytest.mark.slow
@pytest.mark.fault("P06", "training_args.bin, a pickle of transformers, is written and never read")
def test_training_args_are_never_read(clip_folder, tmp_path):
    make(clip_folder, tmp_path / "run").train()
    ran = tmp_path / "ran"
    for path in (tmp_path / "run").rglob("training_args.bin"):
        path.write_bytes(pickle.dumps(Bomb(ran)))
    make(clip_folder, tmp_path / "again").train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    ContextCIRModel.from_pretrained(tmp_path / "run" / "checkpoint-2")
    assert not ran.exists()
