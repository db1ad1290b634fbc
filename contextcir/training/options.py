"""Options of training, in groups: those of this library, and common ones of transformers with the paper's values.

Defaults are the values of the ConText-CIR paper (section 4.3). This file imports nothing heavy, so that a command can
list its options quickly. [`~contextcir.training.training_args.CIRTrainingArguments`] adds all others of
[`~transformers.TrainingArguments`] and checks them together.
"""

from dataclasses import dataclass
from typing import Literal

from transformers.hf_argparser import HfArg


@dataclass
class ScheduleOptions:
    """Duration, learning rate, memory and output of training. Most are options of transformers."""

    _argument_group_name = "Training"

    output_dir: str | None = HfArg(default=None, help="Folder of the model, its record and its card.")
    num_train_epochs: float = HfArg(default=3.0, help="Passes over the training data.")
    max_steps: int = HfArg(default=-1, help="Steps; from 1 on it replaces num_train_epochs.")
    per_device_train_batch_size: int = HfArg(default=8, help="Triplets of a batch, for each process.")
    learning_rate: float = HfArg(default=2e-5, help="Highest learning rate (AdamW).")
    encoder_learning_rate: float | None = HfArg(
        default=None,
        help="Highest learning rate of the two CLIP encoders, in the same schedule; by default learning_rate.",
    )
    min_learning_rate: float = HfArg(default=2e-7, help="Lowest learning rate of the cosine.")
    lr_num_cycles: int = HfArg(default=1, help="Number of cosines. The paper restarts, but gives no number.")
    lr_scheduler_type: str = HfArg(
        default="cosine_with_restarts", help="Schedule: the paper's, or any other of transformers."
    )
    weight_decay: float = HfArg(default=1e-2, help="Weight decay (AdamW).")
    weight_decay_of: Literal["layers", "transformers"] = HfArg(
        default="layers",
        help="layers: decay the weights of layers and the token embeddings; transformers: decay all but norms and"
        " biases, also the temperature, class token and position embeddings, as earlier versions did.",
    )
    seed: int = HfArg(default=42, help="Seed of new layers, sampling and augmentation.")
    bf16: bool = HfArg(default=False, help="Train with bfloat16 autocast.")
    activation_checkpointing: bool | None = HfArg(
        default=None, help="Compute activations again in the backward pass: less memory, more time."
    )
    grad_cache_chunk: int | None = HfArg(
        default=None,
        help="Triplets that are in memory at once (GradCache): a batch of any size at the memory of so many, besides"
        " its pixels, with the same gradients, in up to 4/3 of the time.",
    )
    resume_from_checkpoint: str | None = HfArg(
        default=None,
        help="Checkpoint to continue from: a path, true for the last whole one, auto to begin where there is none.",
    )
    push_to_hub: bool = HfArg(default=False, help="Publish the model under the name hub_model_id (private).")
    hub_public: bool = HfArg(default=False, help="Publish the model for everybody to see.")
    hub_license: str | None = HfArg(
        default=None, help="Licence in the card; by default that of the base model's card, or other."
    )


@dataclass
class LossOptions:
    """The losses, L_tot = L_cont + cc_weight * L_cc, and optionally + grounding_weight * L_ground."""

    _argument_group_name = "Losses"

    cc_weight: float = HfArg(default=0.08, help="Weight of the concept-consistency loss (lambda); 0 leaves it out.")
    cc_warmup_steps: float = HfArg(
        default=0, help="Steps, or below 1 the share of all steps, in which cc_weight rises from 0."
    )
    cc_slack: float = HfArg(default=0.0, help="Difference of attention values that is allowed (epsilon), in [0, 1).")
    cc_form: Literal["excess", "absolute", "contrastive"] = HfArg(
        default="excess",
        help="excess: penalise attention in context beyond isolated attention (paper); absolute: penalise any "
        "difference; contrastive: a phrase's two maps must be more similar to each other than to those of others.",
    )
    isolated_grad: bool = HfArg(
        default=False, help="Whether the concept-consistency loss also trains the isolated maps."
    )
    grounding_weight: float = HfArg(
        default=0.0,
        help="Weight of the divergence of the maps of noun phrases in context from those of the data's column "
        "phrase_maps, which `contextcir ground` adds (not of the paper); 0 leaves it out.",
    )
    max_phrases: int = HfArg(default=10, help="Most noun phrases of a text, breadth-first.")
    concepts_only: bool = HfArg(
        default=True,
        help="Leave out noun phrases that name nothing in an image: the picture itself, pronouns, amounts.",
    )
    query_negatives: Literal["own", "all", "none"] = HfArg(
        default="own",
        help="Reference images among the negatives of a query: its own (paper), all of the global batch, none.",
    )
    mask_repeated_targets: bool = HfArg(
        default=True, help="Whether other rows with a query's own target image are left out of its negatives."
    )
    matryoshka_dims: list[int] | None = HfArg(
        default=None,
        help="Widths, such as 512 256 128 64, at which the first numbers of an embedding are trained to serve as one."
        " The first is the model's own.",
    )
    hard_negatives: int = HfArg(
        default=0,
        help="Mined negatives of each triplet that a step takes, drawn from those that `contextcir mine` has found. "
        "They are negatives of all queries of the global batch.",
    )
    learn_temperature: bool = HfArg(default=True, help="Whether the temperature of the contrastive loss is learned.")
    ema_momentum: float | None = HfArg(
        default=None,
        help="Take targets from a moving average of the model, whose momentum rises from this value to 1 "
        "(InstructCIR: 0.996, as in I-JEPA). By default they come from the model itself.",
    )
    publish_moving_average: bool = HfArg(
        default=False, help="Evaluate and save the moving average at the end, instead of the model."
    )


@dataclass
class SamplingOptions:
    """Which triplets meet in a batch, over all processes and so as negatives of each other. Rows that do not fill a
    batch are left out, other ones in each epoch."""

    _argument_group_name = "Batches"

    batch_by: str | None = HfArg(
        default=None, help="Column whose value all triplets of a batch share, such as their category."
    )
    family_by: str | None = HfArg(
        default=None,
        help="Column whose equal values are families, such as reference_id: these stay together, in an order that "
        "changes with the epoch.",
    )
    distinct_targets: bool = HfArg(
        default=False, help="Let no two triplets with one target image meet in a batch: each adds a negative."
    )
    shuffle_buffer: int | None = HfArg(
        default=None,
        help="Triplets of a stream that are shuffled together, for each loader process; 1000 by default, and 0 for the"
        " order in which they are stored.",
    )


@dataclass
class FreezingOptions:
    """Which parts of the model are trained."""

    _argument_group_name = "Frozen parts"

    freeze_vision: bool = HfArg(default=False, help="Freeze the image encoder.")
    freeze_text: bool = HfArg(default=False, help="Freeze the text encoder.")
    train_only: str | None = HfArg(
        default=None,
        help="Freeze all but this part of the model, such as combiner_weight (lambda, InstructCIR's second stage).",
    )


@dataclass
class ImageOptions:
    """How training images are read."""

    _argument_group_name = "Training images"

    augmentation: Literal["none", "crop"] = HfArg(
        default="none", help="crop: cut 80 to 100 % out of each training image."
    )
    on_bad_image: Literal["abort", "skip"] = HfArg(
        default="abort",
        help="abort: stop at an image that cannot be read; skip: check all images first, leave out triplets with bad "
        "ones, and list these in bad_images.json.",
    )
    encode_images_once: bool = HfArg(
        default=False,
        help="Keep the output of the frozen image encoder for each training image on disk (in the cache of datasets), "
        "instead of computing it in every epoch. Needs freeze_vision and no augmentation.",
    )


OPTIONS = (ScheduleOptions, LossOptions, SamplingOptions, FreezingOptions, ImageOptions)
