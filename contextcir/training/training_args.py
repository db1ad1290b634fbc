"""Training arguments: the options of this library and those of transformers, checked together."""

from dataclasses import dataclass, fields
from typing import get_args

from transformers import SchedulerType, TrainingArguments
from transformers.hf_argparser import HfArg

from contextcir.training.options import FreezingOptions, ImageOptions, LossOptions, ScheduleOptions

# Options of transformers that mean nothing for a contrastive loss over the whole batch: refused, not ignored.
_UNSUPPORTED = ("label_smoothing_factor", "prediction_loss_only", "batch_eval_metrics", "eval_do_concat_batches")


@dataclass
class CIRTrainingArguments(ScheduleOptions, LossOptions, FreezingOptions, ImageOptions, TrainingArguments):
    """
    Arguments of [`CIRTrainer`]: those of [`~transformers.TrainingArguments`], and the groups of
    `contextcir/training/options.py`, where the `help` of each field describes it.

    Raises:
        `ValueError`: A value is outside its range, or options together would silently do something else.
    """

    _argument_group_name = "Training"

    logging_nan_inf_filter: bool = HfArg(
        default=False, help="Whether a loss that is no number is left out of the log. Off, so that it ends training."
    )
    remove_unused_columns: bool = HfArg(
        default=False, help="Must stay off: the collator makes the model's inputs from other columns."
    )
    dataloader_drop_last: bool = HfArg(
        default=True, help="Whether a last, smaller training batch is left out. Must stay on with several processes."
    )
    ddp_find_unused_parameters: bool | None = HfArg(default=False, help="Not needed: every step uses every parameter.")

    def __post_init__(self):
        super().__post_init__()
        for option in fields(CIRTrainingArguments):
            choices = get_args(option.type)
            value = getattr(self, option.name)
            if all(isinstance(choice, str) for choice in choices) and choices and value not in choices:
                raise ValueError(f"{option.name} must be one of {', '.join(choices)}, got {value!r}.")
        for name in ("cc_weight", "cc_warmup_steps", "min_learning_rate", "cc_slack"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.cc_slack and self.cc_form == "contrastive":
            raise ValueError("The contrastive form of the concept consistency loss knows no cc_slack. Leave it at 0.")
        if self.cc_slack >= 1:
            raise ValueError(
                f"cc_slack must be below 1, where no difference would cost anything, got {self.cc_slack}."
            )
        if self.ema_momentum is not None and not 0 <= self.ema_momentum < 1:
            raise ValueError(f"ema_momentum must be at least 0 and below 1, got {self.ema_momentum}.")
        if self.publish_moving_average and (self.ema_momentum is None or self.train_only):
            raise ValueError("publish_moving_average needs an average of the model: ema_momentum, no train_only.")
        if self.publish_moving_average and self.load_best_model_at_end:
            raise ValueError("publish_moving_average takes the last average. Leave out load_best_model_at_end.")
        if self.train_only is not None and (self.freeze_vision or self.freeze_text):
            raise ValueError("train_only lets all else rest: leave out freeze_vision and freeze_text.")
        if self.encode_images_once and (not self.freeze_vision or self.augmentation != "none"):
            raise ValueError("encode_images_once needs images that stay as they are: freeze_vision, no augmentation.")
        if self.encode_images_once and self.ema_momentum is not None:
            raise ValueError("encode_images_once leaves a moving average no images to embed. Leave out one of them.")
        for name in ("lr_num_cycles", "max_phrases"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

        if self.lr_scheduler_type == SchedulerType.COSINE_WITH_RESTARTS:
            if self.min_learning_rate > self.learning_rate:
                raise ValueError(
                    f"min_learning_rate ({self.min_learning_rate}) is above learning_rate ({self.learning_rate})."
                )
            if self.lr_scheduler_kwargs:
                raise ValueError(
                    "cosine_with_restarts takes min_learning_rate and lr_num_cycles, not lr_scheduler_kwargs."
                )
        else:
            for name in ("min_learning_rate", "lr_num_cycles"):
                if getattr(self, name) != getattr(CIRTrainingArguments, name):
                    raise ValueError(f"{name} has no effect with lr_scheduler_type={self.lr_scheduler_type.value}.")

        for name in _UNSUPPORTED:
            if getattr(self, name) != getattr(TrainingArguments, name):
                raise ValueError(
                    f"CIRTrainer does not support {name}. Leave it at {getattr(TrainingArguments, name)}."
                )
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns would remove the images and texts. Leave it off.")
        if self.world_size > 1 and not self.dataloader_drop_last:
            raise ValueError(
                f"Training on {self.world_size} processes needs dataloader_drop_last: the negatives of all processes"
                " are gathered, which takes batches of equal size. Leave it on."
            )
        if self.n_gpu > 1:
            raise ValueError(
                f"One process sees {self.n_gpu} GPUs. Start one process for each (accelerate launch train.py ...), or"
                " choose one GPU with CUDA_VISIBLE_DEVICES."
            )
        if isinstance(self.resume_from_checkpoint, str) and self.resume_from_checkpoint.lower() in ("true", "false"):
            self.resume_from_checkpoint = self.resume_from_checkpoint.lower() == "true"
