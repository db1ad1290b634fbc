"""The paper's values are the defaults; options that cannot work are refused."""

import pytest

from contextcir.training.training_args import CIRTrainingArguments


def arguments(tmp_path, **options):
    return CIRTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)


def test_defaults_are_the_papers(tmp_path):
    args = arguments(tmp_path)
    assert (args.learning_rate, args.min_learning_rate, args.weight_decay) == (2e-5, 2e-7, 1e-2)
    assert (args.cc_weight, args.cc_slack, args.cc_form, args.max_phrases) == (0.08, 0.0, "excess", 10)
    assert (args.query_negatives, args.isolated_grad, args.optim) == ("own", False, "adamw_torch_fused")
    assert args.lr_scheduler_type == "cosine_with_restarts"
    assert args.ema_momentum is None and args.train_only is None  # options of InstructCIR


PUBLISH = {"publish_moving_average": True, "ema_momentum": 0.9}
BEST = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
ONCE = {"encode_images_once": True, "freeze_vision": True}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"query_negatives": "others"}, "query_negatives.* own, all, none.*'others'"),
        ({"cc_form": "squared"}, "cc_form.* excess, absolute, contrastive.*'squared'"),
        ({"augmentation": "flip"}, "augmentation.* none, crop.*'flip'"),
        ({"on_bad_image": "replace"}, "on_bad_image.* abort, skip.*'replace'"),
        ({"cc_weight": -1.0}, r"cc_weight.*-1\.0"),
        ({"cc_weight": float("nan")}, "cc_weight.*nan"),
        ({"cc_slack": 1.0}, r"cc_slack.*1\.0"),
        ({"cc_slack": 0.1, "cc_form": "contrastive"}, "cc_form=contrastive.*cc_slack"),
        ({"lr_num_cycles": 0}, r"lr_num_cycles.*\b0\b"),
        ({"max_phrases": 0}, r"max_phrases.*\b0\b"),
        ({"ema_momentum": 1.0}, r"ema_momentum.*1\.0"),
        ({"ema_momentum": -0.1}, r"ema_momentum.*-0\.1"),
        ({"publish_moving_average": True}, "publish_moving_average.*ema_momentum"),
        (PUBLISH | {"train_only": "fusion"}, "publish_moving_average.*train_only"),
        (PUBLISH | BEST, "publish_moving_average.*load_best_model_at_end"),
        ({"train_only": "fusion", "freeze_text": True}, "train_only.*freeze_vision.*freeze_text"),
        ({"encode_images_once": True}, "encode_images_once.*freeze_vision"),
        (ONCE | {"augmentation": "crop"}, "encode_images_once.*augmentation"),
        (ONCE | {"ema_momentum": 0.9}, "encode_images_once.*ema_momentum"),
        ({"encoder_learning_rate": -1.0}, r"encoder_learning_rate.*-1\.0"),
        ({"encoder_learning_rate": 1e-5, "freeze_vision": True, "freeze_text": True}, "encoder_learning_rate.*frozen"),
        ({"encoder_learning_rate": 1e-5, "train_only": "fusion"}, "encoder_learning_rate.*frozen"),
        ({"weight_decay_of": "all"}, "weight_decay_of.* layers, transformers.*'all'"),
        ({"matryoshka_dims": [64, 64]}, r"matryoshka_dims.*\[64, 64\]"),
        ({"matryoshka_dims": [64, 128]}, r"matryoshka_dims.*\[64, 128\]"),
        ({"matryoshka_dims": [64, 0]}, r"matryoshka_dims.*\[64, 0\]"),
        ({"grad_cache_chunk": 0}, r"grad_cache_chunk.*\b0\b"),
        ({"grad_cache_chunk": 4, "optim": "lomo"}, "grad_cache_chunk.*optim=lomo"),
        ({"learning_rate": 1e-8}, r"min_learning_rate \(2e-07\).*learning_rate \(1e-08\)"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "min_learning_rate.*lr_num_cycles.*lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "linear", "lr_num_cycles": 3}, "lr_num_cycles.*lr_scheduler_type=linear"),
        ({"lr_scheduler_type": "linear", "min_learning_rate": 0.0}, "min_learning_rate.*lr_scheduler_type=linear"),
        ({"remove_unused_columns": True}, "remove_unused_columns"),
        ({"label_smoothing_factor": 0.1}, r"label_smoothing_factor.*0\.0"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics.*False"),
        ({"max_phrases": 0, "cc_slack": 2.0}, r"max_phrases.*\b0\b.*cc_slack.*2\.0"),  # all problems at once
    ],
    ids=str,
)
def test_options_that_cannot_work_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **options)


def test_several_processes_need_full_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(CIRTrainingArguments, "world_size", 2)
    with pytest.raises(ValueError, match=r"\b2\b.*dataloader_drop_last"):
        arguments(tmp_path, dataloader_drop_last=False)
    arguments(tmp_path)


def test_several_gpus_in_one_process_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(CIRTrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match=r"\b2\b.*accelerate launch.*CUDA_VISIBLE_DEVICES"):
        arguments(tmp_path)


@pytest.mark.parametrize("given, meant", [("true", True), ("False", False), ("runs/a", "runs/a"), (None, None)])
def test_resume_from_checkpoint_of_a_config_may_be_true_or_a_path(tmp_path, given, meant):
    assert arguments(tmp_path, resume_from_checkpoint=given).resume_from_checkpoint == meant
