"""Checks of what a trainer is made of: each says in one line what to do, where transformers would fail later."""

import importlib.util
from typing import Any

import datasets

from contextcir.training.training_args import CIRTrainingArguments
from contextcir.training.training_data import is_stream

REPORTERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}


def check_arguments(args: Any, model: Any, kwargs: dict[str, Any]) -> None:
    """
    Check the arguments of [`~contextcir.training.trainer.CIRTrainer`].

    Args:
        args ([`CIRTrainingArguments`]): The training arguments.
        model (`torch.nn.Module`, *optional*): The model, unless there is a `model_init`.
        kwargs (`dict`): Arguments of [`~transformers.Trainer`].

    Raises:
        ValueError: Something is missing or does not fit together.
        ImportError: A library that `report_to` names is not installed.
    """
    if not isinstance(args, CIRTrainingArguments):
        raise ValueError(f"args is a {type(args).__name__}. Make a CIRTrainingArguments with the same options.")
    if kwargs.get("processing_class") is None and kwargs.get("data_collator") is None:
        raise ValueError("processing_class is missing. Give the model's processor, or a data_collator of your own.")
    if kwargs.get("model_init") is not None:
        for name in ("ema_momentum", "encode_images_once"):
            if getattr(args, name):
                raise ValueError(f"{name} belongs to one model. Leave it out, or give model instead of model_init.")
    if args.encoder_learning_rate is not None and kwargs.get("optimizers", (None, None))[0] is not None:
        raise ValueError("The given optimizer has its own rates. Leave out encoder_learning_rate, or the optimizer.")
    for name in args.report_to:
        if not any(importlib.util.find_spec(library) for library in REPORTERS.get(name, (__name__,))):
            extra = f"contextcir[{name}]" if name in REPORTERS else name
            raise ImportError(f"report_to={name} needs {name}: pip install {extra}.")
    train = kwargs.get("train_dataset")
    if is_stream(train):
        _check_stream(args)
    elif args.encode_images_once and not isinstance(train, datasets.Dataset):
        raise ValueError(f"encode_images_once needs a datasets.Dataset, got {type(train).__name__}. Leave it out.")
    if args.cc_weight and kwargs.get("data_collator") is None:
        _check_noun_phrases(train)
    evaluation = kwargs.get("eval_dataset")
    sets = evaluation.values() if isinstance(evaluation, dict) else [evaluation]
    if args.world_size > 1 and any(map(is_stream, sets)):
        raise ValueError("Evaluation on several processes needs a data set with a length, not a stream.")


def _check_stream(args: CIRTrainingArguments) -> None:
    if args.max_steps <= 0:
        raise ValueError("A stream of triplets has no length. Set max_steps.")
    if args.encode_images_once:
        raise ValueError("encode_images_once needs all images in advance, not a stream. Leave it out.")
    if args.accelerator_config.dispatch_batches:
        raise ValueError("dispatch_batches cannot send texts to other processes. Leave it out.")


def _check_noun_phrases(train: Any) -> None:
    if isinstance(train, (datasets.Dataset, datasets.IterableDataset)):
        columns = train.column_names  # of a stream, they may be unknown
    else:
        columns = list(train[0]) if isinstance(train, (list, tuple)) and train else None
    if columns is not None and "noun_phrases" not in columns:
        raise ValueError("There is no column noun_phrases. `contextcir phrases` adds it; or set cc_weight to 0.")
