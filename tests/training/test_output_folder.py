"""An output folder is reserved for one run at a time; test_run.py tests what the trainer does with it."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from contextcir.training.output_folder import claim_folder
from tests.training.test_checkpoints import write_checkpoint


def test_one_claim_at_a_time(tmp_path):
    folder = tmp_path / "runs" / "mine"
    with claim_folder(folder):
        with pytest.raises(ValueError, match=f"{folder}.*output_dir"):
            with claim_folder(folder, resuming=True):
                pass
        with claim_folder(tmp_path / "other"):
            pass
    with pytest.raises(KeyError), claim_folder(folder):
        raise KeyError
    with claim_folder(folder):  # released by any end of the last claim
        pass


@pytest.mark.parametrize("left", ["checkpoint-3", "model.safetensors", "trainer_state.json"])
def test_a_folder_with_results_is_refused_unless_their_run_is_resumed(tmp_path, left):
    if left == "model.safetensors":
        save_file({"weight": torch.ones(2)}, tmp_path / left)
    elif left == "trainer_state.json":
        (tmp_path / left).write_text("{}")
    else:
        write_checkpoint(tmp_path / left)
    with pytest.raises(ValueError, match=rf"{tmp_path}.*{left}.*resume_from_checkpoint"):
        with claim_folder(tmp_path):
            pass
    with claim_folder(tmp_path, resuming=True):
        pass


@pytest.mark.fault("J02", "a run that was killed in its first save begins anew in the same folder")
@pytest.mark.parametrize("left", ["checkpoint-3/optimizer.pt", "checkpoint-3/model.safetensors", "model.safetensors"])
def test_what_is_half_written_is_no_result(tmp_path, left):
    write_checkpoint(tmp_path / "checkpoint-3")
    if "/" in left:
        (tmp_path / left).write_bytes((tmp_path / left).read_bytes()[:-9])
    else:
        shutil.rmtree(tmp_path / "checkpoint-3")
        save_file({"weight": torch.ones(2)}, tmp_path / left)
        (tmp_path / left).write_bytes((tmp_path / left).read_bytes()[:-3])
    with claim_folder(tmp_path):
        pass
