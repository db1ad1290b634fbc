"""Training arguments: those of transformers with the values of the ConText-CIR paper (section 4.3), and its own."""

from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from transformers import SchedulerType, TrainingArguments

# Options of transformers without a meaning for a contrastive loss over the whole batch: refused, not ignored.
_UNSUPPORTED = ("label_smoothing_factor", "prediction_loss_only", "batch_eval_metrics", "eval_do_concat_batches")


@dataclass
class CIRTrainingArguments(TrainingArguments):
    """
    Arguments of [`CIRTrainer`]. Every field below is described by its `help`; all others are those of
    [`~transformers.TrainingArguments`].

    Raises:
        ValueError: for values outside their range and for combinations that would silently do something else.
    """

    learning_rate: float = field(
        default=2e-5, metadata={"help": "Highest learning rate (AdamW). The paper's value is 2e-5."}
    )
    min_learning_rate: float = field(
        default=2e-7, metadata={"help": "Lowest learning rate of the cosine. The paper's value is 2e-7."}
    )
    lr_num_cycles: int = field(
        default=1,
        metadata={
            "help": "Number of cosines from the highest to the lowest rate. The paper cycles, but gives no number."
        },
    )
    lr_scheduler_type: SchedulerType | str = field(
        default="cosine_with_restarts",
        metadata={"help": "'cosine_with_restarts' is the paper's; any other is that of transformers."},
    )
    weight_decay: float = field(default=1e-2, metadata={"help": "Weight decay (AdamW). The paper's value is 1e-2."})

    cc_weight: float = field(
        default=0.08,
        metadata={
            "help": "Weight of the concept consistency loss (lambda); 0 leaves it out and saves its computation."
        },
    )
    cc_warmup_steps: float = field(
        default=0,
        metadata={
            "help": "Steps, or below 1 the share of all steps, in which the weight of the concept consistency loss "
            "rises from 0."
        },
    )
    cc_slack: float = field(
        default=0.0, metadata={"help": "Difference of two attention values that costs nothing (epsilon), in [0, 1)."}
    )
    cc_form: Literal["excess", "absolute", "contrastive"] = field(
        default="excess",
        metadata={
            "help": "'excess' punishes attention in context beyond that in isolation (paper), 'absolute' both ways; "
            "'contrastive' asks that a phrase be told by its map from the text's other phrases."
        },
    )
    isolated_grad: bool = field(
        default=False,
        metadata={"help": "Whether the concept consistency loss also moves the maps of isolated phrases."},
    )
    query_negatives: Literal["own", "all", "none"] = field(
        default="own",
        metadata={
            "help": "Reference images among the negatives of a query: its own (paper), all of the global batch, none."
        },
    )
    mask_repeated_targets: bool = field(
        default=True, metadata={"help": "Whether other rows with a query's own target image leave its negatives."}
    )
    learn_temperature: bool = field(
        default=True, metadata={"help": "Whether the temperature of the contrastive loss is learned."}
    )
    freeze_vision: bool = field(default=False, metadata={"help": "Whether the image encoder keeps its weights."})
    encode_images_once: bool = field(
        default=False,
        metadata={
            "help": "Keep what the resting image encoder makes of each training image, on the disk (in the cache of "
            "datasets), instead of computing it in every epoch. Needs freeze_vision, and no augmentation."
        },
    )
    freeze_text: bool = field(default=False, metadata={"help": "Whether the text encoder keeps its weights."})

    train_only: str | None = field(
        default=None,
        metadata={
            "help": "The one part of the model that trains, such as 'combiner_weight', the lambda of InstructCIR's "
            "second stage; by default all."
        },
    )
    ema_momentum: float | None = field(
        default=None,
        metadata={
            "help": "Targets come from a moving average of the model, whose momentum rises from this value to 1 "
            "(InstructCIR, as in I-JEPA: 0.996). By default they come from the model itself."
        },
    )
    publish_moving_average: bool = field(
        default=False,
        metadata={"help": "Whether the average is what is measured and saved at the end, in place of the model."},
    )

    max_phrases: int = field(
        default=10, metadata={"help": "Noun phrases used of each text, breadth-first. The paper's value is 10."}
    )
    augmentation: Literal["none", "crop"] = field(
        default="none", metadata={"help": "'crop' cuts out 80 to 100 % of each training image."}
    )
    on_bad_image: Literal["abort", "skip"] = field(
        default="abort",
        metadata={
            "help": "'abort' stops at an unreadable image; 'skip' reads all images beforehand, leaves triplets with "
            "unreadable ones out and lists them in bad_images.json."
        },
    )

    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Whether a loss that is no number is left out of the log. Off, so that it ends training."},
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: the collator makes the model's inputs from other columns."}
    )
    dataloader_drop_last: bool = field(
        default=True,
        metadata={"help": "Whether a last, smaller training batch is left out. Must stay on with several processes."},
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Not needed: every step uses every parameter."}
    )

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
