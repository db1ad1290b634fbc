"""Training arguments: the options of this library and those of transformers, checked together."""

from dataclasses import dataclass, fields
from typing import Any, get_args

from transformers import SchedulerType, TrainingArguments
from transformers.hf_argparser import HfArg
from transformers.training_args import OptimizerNames

from contextcir.training.metric_names import greater_is_better
from contextcir.training.options import FreezingOptions, ImageOptions, LossOptions, SamplingOptions, ScheduleOptions

# Options of transformers that cannot work with a contrastive loss over the whole batch: refused, not ignored.
_UNSUPPORTED = ("label_smoothing_factor", "prediction_loss_only", "batch_eval_metrics", "eval_do_concat_batches")
_NOT_NEEDED = ("enable_jit_checkpoint",)  # signals save a checkpoint without it


@dataclass
class CIRTrainingArguments(
    ScheduleOptions, LossOptions, SamplingOptions, FreezingOptions, ImageOptions, TrainingArguments
):
    """
    Arguments of [`CIRTrainer`]: those of [`~transformers.TrainingArguments`], and the groups of
    `contextcir/training/options.py`, where the `help` of each field describes it.

    Raises:
        ValueError: A value is outside its range, or options do not work together.
    """

    _argument_group_name = "Training"

    logging_nan_inf_filter: bool = HfArg(
        default=False, help="Whether to leave NaN and infinite losses out of the log. Off, so that they end training."
    )
    remove_unused_columns: bool = HfArg(
        default=False, help="Must stay off: the collator makes the model's inputs from other columns."
    )
    dataloader_drop_last: bool = HfArg(
        default=True, help="Whether a last, smaller training batch is left out. Must stay on with several processes."
    )
    ddp_find_unused_parameters: bool | None = HfArg(default=False, help="Not needed: every step uses every parameter.")
    hub_strategy: str = HfArg(default="end", help="Must stay end: the model is published once, when it is whole.")

    @property
    def reads_phrases(self) -> bool:
        """`bool`: Whether a loss reads noun phrases."""
        return self.cc_weight > 0 or self.grounding_weight > 0

    def __post_init__(self) -> None:
        given = self.greater_is_better
        super().__post_init__()
        if self.hub_private_repo is None:  # by default, what trackio makes of it would be public
            self.hub_private_repo: bool | None = not self.hub_public
        direction = greater_is_better(self.metric_for_best_model or "")
        if given is None and direction is not None:
            self.greater_is_better: bool | None = direction
        resume = str(self.resume_from_checkpoint).lower()
        if resume in ("true", "false"):
            self.resume_from_checkpoint: Any = resume == "true"
        elif resume == "auto":
            self.resume_from_checkpoint = resume
        if problems := [*self._values_out_of_range(), *self._options_that_do_not_fit(), *self._unsupported()]:
            raise ValueError(" ".join(problems))

    def _values_out_of_range(self):
        for option in fields(CIRTrainingArguments):
            choices = get_args(option.type)
            value = getattr(self, option.name)
            if all(isinstance(choice, str) for choice in choices) and choices and value not in choices:
                yield f"{option.name} must be one of {', '.join(choices)}, got {value!r}."
        for name in (
            "cc_weight",
            "grounding_weight",
            "cc_warmup_steps",
            "min_learning_rate",
            "cc_slack",
            "hard_negatives",
        ):
            if not getattr(self, name) >= 0:
                yield f"{name} must not be negative, got {getattr(self, name)}."
        for name in ("lr_num_cycles", "max_phrases"):
            if getattr(self, name) < 1:
                yield f"{name} must be at least 1, got {getattr(self, name)}."
        if self.grad_cache_chunk is not None and self.grad_cache_chunk < 1:
            yield f"grad_cache_chunk must be at least 1, got {self.grad_cache_chunk}."
        widths = self.matryoshka_dims
        if widths is not None and (not widths or widths[-1] < 1 or sorted(set(widths), reverse=True) != widths):
            yield f"matryoshka_dims must be falling widths of at least 1, got {widths}."
        if self.cc_slack >= 1:
            yield f"cc_slack must be below 1, the largest difference, got {self.cc_slack}."
        if self.ema_momentum is not None and not 0 <= self.ema_momentum < 1:
            yield f"ema_momentum must be at least 0 and below 1, got {self.ema_momentum}."

    def _options_that_do_not_fit(self):
        if self.cc_slack and self.cc_form == "contrastive":
            yield "cc_form=contrastive has no cc_slack. Leave it at 0."
        if self.grounding_weight and self.augmentation != "none":
            yield f"grounding_weight needs images as their maps show them. Leave out augmentation={self.augmentation}."
        if self.publish_moving_average and (self.ema_momentum is None or self.train_only):
            yield "publish_moving_average needs an average of the model. Set ema_momentum and leave out train_only."
        if self.publish_moving_average and self.load_best_model_at_end:
            yield "publish_moving_average takes the last average. Leave out load_best_model_at_end."
        direction = greater_is_better(self.metric_for_best_model or "")
        if direction not in (None, self.greater_is_better):
            yield (
                f"greater_is_better={self.greater_is_better} takes the worst model by {self.metric_for_best_model} for"
                " the best. Leave it out."
            )
        if self.grad_cache_chunk and self.optim in ("lomo", "adalomo"):
            optim = OptimizerNames(self.optim).value
            yield f"grad_cache_chunk adds the gradients of chunks, and optim={optim} keeps none. Leave out either."
        if self.encoder_learning_rate is not None and not self.encoder_learning_rate >= 0:
            yield f"encoder_learning_rate must not be negative, got {self.encoder_learning_rate}."
        frozen = self.freeze_vision and self.freeze_text
        frozen = frozen or self.train_only not in (None, "text_model", "vision_model")
        if self.encoder_learning_rate is not None and frozen:
            yield "encoder_learning_rate has no effect on frozen encoders. Leave it out, or train one of them."
        if self.train_only is not None and (self.freeze_vision or self.freeze_text):
            yield "train_only freezes all other parts. Leave out freeze_vision and freeze_text."
        if self.encode_images_once and (not self.freeze_vision or self.augmentation != "none"):
            yield "encode_images_once needs encoded images that do not change: freeze_vision and no augmentation."
        composed = [name for name in ("batch_by", "family_by", "distinct_targets") if getattr(self, name)]
        if composed and self.train_sampling_strategy != "random":
            yield (
                f"{composed[0]} makes an order of its own. Leave out"
                f" train_sampling_strategy={self.train_sampling_strategy}."
            )
        if self.family_by and self.distinct_targets:
            yield "family_by keeps triplets together, and distinct_targets apart. Leave out one of them."
        if self.encode_images_once and self.ema_momentum is not None:
            yield "encode_images_once leaves the moving average no images to embed. Leave out it or ema_momentum."
        if self.lr_scheduler_type == SchedulerType.COSINE_WITH_RESTARTS:
            if self.min_learning_rate > self.learning_rate:
                yield f"min_learning_rate ({self.min_learning_rate}) is above learning_rate ({self.learning_rate})."
            if self.lr_scheduler_kwargs:
                yield "cosine_with_restarts takes min_learning_rate and lr_num_cycles, not lr_scheduler_kwargs."
        else:
            for name in ("min_learning_rate", "lr_num_cycles"):
                if getattr(self, name) != getattr(CIRTrainingArguments, name):
                    schedule = SchedulerType(self.lr_scheduler_type).value
                    yield f"{name} has no effect with lr_scheduler_type={schedule}. Leave it out."

    def _unsupported(self):
        if self.push_to_hub and self.hub_strategy != "end":
            yield "hub_strategy would publish whole folders with optimizer states. Leave it at end."
        if self.hub_private_repo is not None and self.hub_private_repo == self.hub_public:
            yield f"hub_private_repo={self.hub_private_repo} does not fit hub_public={self.hub_public}. Leave it out."
        for name in _UNSUPPORTED + _NOT_NEEDED:
            if getattr(self, name) != getattr(TrainingArguments, name):
                yield f"CIRTrainer does not support {name}. Leave it at {getattr(TrainingArguments, name)}."
        if self.remove_unused_columns:
            yield "remove_unused_columns would remove the images and texts. Leave it off."
        if self.world_size > 1 and not self.dataloader_drop_last:
            yield (
                f"Training on {self.world_size} processes needs dataloader_drop_last: it gathers the negatives of all"
                " processes, whose batches must have equal sizes. Leave it on."
            )
        if self.n_gpu > 1:
            yield (
                f"One process sees {self.n_gpu} GPUs. Start one process for each, with accelerate launch -m"
                " contextcir.cli.train, or choose one GPU with CUDA_VISIBLE_DEVICES."
            )
