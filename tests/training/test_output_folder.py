"""A folder is claimed by one run at a time; what the trainer and `train.py` make of it is in their tests."""

import pytest

from contextcir.training.output_folder import claim_folder


def test_one_claim_at_a_time(tmp_path):
    folder = tmp_path / "runs" / "mine"
    with claim_folder(folder):
        with pytest.raises(ValueError, match="Another run is training into .*mine. Choose another output_dir"):
            with claim_folder(folder, resuming=True):
                pass
        with claim_folder(tmp_path / "other"):
            pass
    with pytest.raises(KeyError), claim_folder(folder):
        raise KeyError
    with claim_folder(folder):  # whatever ended the last
        pass


@pytest.mark.parametrize("left", ["checkpoint-3", "model.safetensors", "trainer_state.json"])
def test_results_belong_to_the_run_that_made_them(tmp_path, left):
    (tmp_path / left).touch()
    with pytest.raises(ValueError, match=rf"holds the results of another run \({left}\). .*resume_from_checkpoint"):
        with claim_folder(tmp_path):
            pass
    with claim_folder(tmp_path, resuming=True):
        pass
