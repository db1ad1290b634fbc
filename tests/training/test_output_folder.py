"""An output folder is reserved for one run at a time; test_run.py tests what the trainer does with it."""

import pytest

from contextcir.training.output_folder import claim_folder


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
    (tmp_path / left).touch()
    with pytest.raises(ValueError, match=rf"{tmp_path}.*{left}.*resume_from_checkpoint"):
        with claim_folder(tmp_path):
            pass
    with claim_folder(tmp_path, resuming=True):
        pass
