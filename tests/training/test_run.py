"""Runs: their output folders, resuming, unreadable images, records and model cards."""

import importlib.metadata
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contextcir.training.ema import AVERAGE_FILE
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor, InstructCIRModel
from tests.tiny_triplets import triplets
from tests.training.conftest import REPOSITORY, SAVING, averages, changed, folder_of, logged, read_json, weights


def copied(trainer, checkpoint, folder):
    """A new output folder with one checkpoint of a run."""
    shutil.copytree(folder_of(trainer) / checkpoint, folder_of(trainer).parent / folder / checkpoint)
    return {"output": folder}


# Output folders


def test_an_output_folder_belongs_to_one_run(build):
    build(**SAVING).train()
    with pytest.raises(ValueError, match="run.*checkpoint-"):
        build().train()
    resumed = build(max_steps=3)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3


def test_two_runs_at_once_in_one_folder_are_refused(build, tmp_path):
    def evaluator(model):
        with pytest.raises(ValueError, match=f"{tmp_path}/run"):
            build().train()
        return {"refused": 1.0}

    trainer = build(evaluator=evaluator, eval_strategy="steps", eval_steps=2)
    with trainer.claim_output_dir():
        trainer.train()
        with pytest.raises(ValueError, match=f"{tmp_path}/run"):  # still claimed after training
            build().train()
    assert any("eval_refused" in entry for entry in trainer.state.log_history)
    build().train()  # released


# Resuming


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(build, workers):
    """Eight triplets, batches of two: step 3 is in the middle of the first epoch, step 6 of the second."""
    options = {"per_device_train_batch_size": 2, "max_steps": 7, "augmentation": "crop", "eval_rows": triplets(3)}
    options |= {"dataloader_num_workers": workers, "dataloader_persistent_workers": workers > 0}
    options |= {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2}
    whole = build(output="whole", **options)
    whole.train()
    for step in (3, 6) if not workers else (3,):
        new = copied(whole, f"checkpoint-{step}", f"resumed-{step}")
        resumed = build(**new, **options)
        (folder_of(resumed) / "checkpoint-7").mkdir()  # left by a run that was killed while it saved
        resumed.train(resume_from_checkpoint=True)
        assert not changed(weights(whole), weights(resumed))
        assert logged(resumed)[-1]["loss_contrastive"] == logged(whole)[-1]["loss_contrastive"]


AVERAGING = {"kind": "instructcir", "ema_momentum": 0.9, "max_steps": 4, "per_device_train_batch_size": 2}
AVERAGING |= {"save_strategy": "steps", "save_steps": 2}


@pytest.mark.slow
def test_a_resumed_run_with_a_moving_average_ends_with_the_same_bits(build):
    whole = build(output="whole", **AVERAGING)
    whole.train()
    resumed = build(**copied(whole, "checkpoint-2", "resumed"), **AVERAGING)
    resumed.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in logged(resumed)] == [1, 2, 3, 4]
    assert not changed(weights(whole), weights(resumed)) and not changed(averages(whole), averages(resumed))
    assert logged(resumed)[-1]["loss"] == logged(whole)[-1]["loss"]
    # Without its average, the last checkpoint is not whole.
    (folder_of(whole) / "checkpoint-4" / AVERAGE_FILE).unlink()
    again = build(output="whole", **AVERAGING)
    again.train(resume_from_checkpoint=True)
    assert not changed(averages(resumed), averages(again))


def test_a_checkpoint_and_ema_momentum_must_fit(build):
    without = AVERAGING | {"ema_momentum": None}
    build(output="with", **AVERAGING).train()
    plain = build(output="without", **without)
    plain.train()
    with pytest.raises(ValueError, match=f"{AVERAGE_FILE}.*ema_momentum"):
        build(output="with", **without).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=str(folder_of(plain))):
        build(output="without", **AVERAGING).train(resume_from_checkpoint=True)
    checkpoint = str(folder_of(plain) / "checkpoint-4")
    with pytest.raises(ValueError, match=f"{checkpoint}.*{AVERAGE_FILE}"):
        build(output="without", **AVERAGING).train(resume_from_checkpoint=checkpoint)


def test_a_checkpoint_without_its_average_is_not_whole(build, monkeypatch, tmp_path):
    """A run that is killed while it saves must not leave a checkpoint that looks whole and lacks the average."""

    def killed(*args):
        raise KeyboardInterrupt

    trainer = build(**AVERAGING)
    monkeypatch.setattr(trainer.moving_average, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    with pytest.raises(ValueError, match=f"{tmp_path}/run"):
        build(**AVERAGING).train(resume_from_checkpoint=True)


def test_without_a_whole_checkpoint_there_is_nothing_to_resume(build, tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}/run"):
        build().train(resume_from_checkpoint=True)
    (tmp_path / "half").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path}/half.*trainer_state.json"):
        build().train(resume_from_checkpoint=str(tmp_path / "half"))


def test_checkpoints_with_broken_weights_are_skipped(build):
    options = {"max_steps": 3, **SAVING}
    whole = build(**options)
    whole.train()
    shutil.rmtree(folder_of(whole) / "checkpoint-3")
    file = folder_of(whole) / "checkpoint-2" / "model.safetensors"
    good = load_file(file)
    nan = {**good, "projection.weight": good["projection.weight"].clone().fill_(torch.nan)}
    missing = {name: tensor for name, tensor in good.items() if name != "projection.weight"}
    for broken in (nan, missing):
        save_file(broken, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match="checkpoint-2.*model.safetensors.*projection.weight"):
            build(**options).train(resume_from_checkpoint=str(file.parent))
    resumed = build(**options)
    resumed.train(resume_from_checkpoint=True)  # from the first step
    assert [entry["step"] for entry in logged(resumed)] == [1, 2, 3]
    assert not changed(weights(whole), weights(resumed))


# Unreadable images

BAD_ROWS = triplets(8)
BAD_ROWS[1]["target_image"] = {"bytes": b"", "path": None}
BAD_ROWS[5]["reference_image"] = {"bytes": BAD_ROWS[5]["reference_image"]["bytes"][:-80], "path": None}


def test_triplets_with_unreadable_images_can_be_skipped_and_are_listed(build):
    trainer = build(rows=BAD_ROWS, on_bad_image="skip", per_device_train_batch_size=6, eval_rows=BAD_ROWS[:3])
    assert trainer.train_dataset["id"] == ["t0", "t2", "t3", "t4", "t6", "t7"]
    assert trainer.eval_dataset["id"] == ["t0", "t2"]
    trainer.train()
    listed = read_json(trainer, "bad_images.json")
    assert [(image["row"], image["id"], image["column"]) for image in listed["train"]] == [
        (1, "t1", "target_image"),
        (5, "t5", "reference_image"),
    ]
    assert trainer.record()["bad_images"] == {"train": 2, "eval": 1}


def test_less_triplets_than_one_batch_are_refused(build):
    with pytest.raises(ValueError, match=r"\b8\b.*\b16\b.*per_device_train_batch_size"):
        build(per_device_train_batch_size=16).train()
    trainer = build(rows=BAD_ROWS, on_bad_image="skip", per_device_train_batch_size=8)
    with pytest.raises(ValueError, match=r"\b6\b.*\b8\b.*\b2\b.*bad_images.json"):
        trainer.train()
    assert [image["row"] for image in read_json(trainer, "bad_images.json")["train"]] == [1, 5]


def test_an_evaluation_set_without_readable_images_is_refused(build):
    trainer = build(on_bad_image="skip", eval_rows=[BAD_ROWS[1], BAD_ROWS[5]])
    with pytest.raises(ValueError, match=r"\b2\b.*bad_images.json"):
        trainer.train()
    listed = read_json(trainer, "bad_images.json")
    assert {split: [image["row"] for image in bad] for split, bad in listed.items()} == {"train": [], "eval": [0, 1]}


# Results


def test_the_second_stage_of_instructcir_tunes_lambda_only(build):
    first = build("instructcir", output="first")
    first.train()
    first.save_model()
    model = InstructCIRModel.from_pretrained(first.args.output_dir)
    second = build("instructcir", output="second", model=model, train_only="combiner_weight", weight_decay=0.0)
    before = weights(second)
    second.train()
    assert changed(before, weights(second)) == {"combiner_weight"}
    record = second.record()["model"]
    assert record["trainable_parameters"] == 1
    assert record["scalars"]["combiner_weight"] == model.combiner_weight.item() != 1.0


def test_a_saved_model_loads_with_its_processor(build):
    trainer = build()
    trainer.train()
    trainer.save_model()
    loaded = ContextCIRModel.from_pretrained(trainer.args.output_dir)
    assert not changed(weights(trainer), dict(loaded.named_parameters()))
    ContextCIRProcessor.from_pretrained(trainer.args.output_dir)


@pytest.mark.parametrize("kind, options", [("contextcir", {}), ("instructcir", {"ema_momentum": 0.9})])
def test_the_model_card_has_the_values_of_the_record(build, kind, options):
    data = {"names": ["user/triplets"], "train_split": "train", "benchmark": "user/bench", "benchmark_split": "test"}
    trainer = build(
        kind,
        evaluator=lambda model: {"recall@1": 12.5},
        card_template=REPOSITORY / "model_cards" / f"{kind}_template.md",
        run_info={"command": "train.py --x", "commit": "abc", "data": data, "model": {"base_model": "user/clip"}},
        **options,
    )
    trainer.train()
    trainer.evaluate()
    record = json.loads(json.dumps(trainer.record()))
    assert record["metrics"]["eval_recall@1"] == 12.5
    assert record["arguments"]["cc_weight"] == trainer.args.cc_weight and record["arguments"]["seed"] == 42
    assert "output_dir" not in record["arguments"]
    assert record["history"][0]["loss_contrastive"] == logged(trainer)[0]["loss_contrastive"]
    trainer.create_model_card()
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    own = {
        "contextcir": ["| cc_weight | `0.08` |"],
        "instructcir": ["2504.00812", "lambda = 1:", "| ema_momentum | `0.9` |"],
    }
    values = ["base_model: user/clip", "- user/triplets", "| recall@1 | 12.5 |", "test split of `user/bench`"]
    torch_version = importlib.metadata.version("torch")
    values += ["`train.py --x`", "`abc`", f"torch {torch_version}", f"{logged(trainer)[0]['loss']:.4g}"]
    for value in values + own[kind]:
        assert value in card, value
