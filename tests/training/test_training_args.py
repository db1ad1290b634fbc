"""The paper's values are the defaults; what cannot work is refused with a reason."""

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
    assert args.ema_momentum is None and args.train_only is None  # these are InstructCIR's


@pytest.mark.parametrize(
    "options, message",
    [
        ({"query_negatives": "others"}, "query_negatives must be one of own, all, none, got 'others'"),
        ({"cc_form": "squared"}, "cc_form must be one of excess, absolute"),
        ({"augmentation": "flip"}, "augmentation must be one of none, crop"),
        ({"on_bad_image": "replace"}, "on_bad_image must be one of abort, skip"),
        ({"cc_weight": -1.0}, "cc_weight must not be negative"),
        ({"cc_weight": float("nan")}, "cc_weight must not be negative"),
        ({"cc_slack": 1.0}, "cc_slack must be below 1"),
        ({"cc_slack": 0.1, "cc_form": "contrastive"}, "contrastive form .* knows no cc_slack"),
        ({"lr_num_cycles": 0}, "lr_num_cycles must be at least 1"),
        ({"max_phrases": 0}, "max_phrases must be at least 1"),
        ({"ema_momentum": 1.0}, "ema_momentum must be at least 0 and below 1, got 1.0"),
        ({"ema_momentum": -0.1}, "ema_momentum must be at least 0 and below 1"),
        ({"publish_moving_average": True}, "publish_moving_average needs an average of the model: ema_momentum"),
        (
            {"publish_moving_average": True, "ema_momentum": 0.9, "train_only": "fusion"},
            "publish_moving_average needs an average of the model",
        ),
        (
            {"publish_moving_average": True, "ema_momentum": 0.9, "load_best_model_at_end": True}
            | {"eval_strategy": "steps", "save_strategy": "steps"},
            "takes the last average. Leave out load_best_model_at_end",
        ),
        ({"train_only": "fusion", "freeze_text": True}, "train_only lets all else rest: leave out freeze_vision"),
        ({"learning_rate": 1e-8}, r"min_learning_rate \(2e-07\) is above learning_rate \(1e-08\)"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "takes min_learning_rate and lr_num_cycles"),
        (
            {"lr_scheduler_type": "linear", "lr_num_cycles": 3},
            "lr_num_cycles has no effect with lr_scheduler_type=linear",
        ),
        ({"lr_scheduler_type": "linear", "min_learning_rate": 0.0}, "min_learning_rate has no effect"),
        ({"remove_unused_columns": True}, "would remove the images"),
        ({"label_smoothing_factor": 0.1}, "does not support label_smoothing_factor"),
        ({"batch_eval_metrics": True}, "does not support batch_eval_metrics"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **options)


def test_several_processes_need_full_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(CIRTrainingArguments, "world_size", 2)
    with pytest.raises(ValueError, match="Training on 2 processes needs dataloader_drop_last"):
        arguments(tmp_path, dataloader_drop_last=False)
    arguments(tmp_path)


def test_several_gpus_in_one_process_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(CIRTrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match="accelerate launch"):
        arguments(tmp_path)


@pytest.mark.parametrize("given, meant", [("true", True), ("True", True), ("runs/a", "runs/a"), (None, None)])
def test_resuming_can_be_asked_for_in_a_config(tmp_path, given, meant):
    assert arguments(tmp_path, resume_from_checkpoint=given).resume_from_checkpoint == meant
