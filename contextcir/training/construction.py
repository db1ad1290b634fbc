"""Checks of what a trainer is made of: each says in one line what to do, where transformers would fail later."""

import importlib.util
from typing import Any

import datasets
from datasets.iterable_dataset import BufferShuffledExamplesIterable

from contextcir.data.image_fit import check_fit
from contextcir.data.negatives import NEGATIVE_IDS, has_negatives
from contextcir.data.triplets import PHRASE_MAPS
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
    check_fit(model, kwargs.get("processing_class"))
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
        _check_stream(args, train)
    elif args.shuffle_buffer is not None:
        raise ValueError("shuffle_buffer is for streams: other data are shuffled as a whole. Leave it out.")
    elif args.encode_images_once and not isinstance(train, datasets.Dataset):
        raise ValueError(f"encode_images_once needs a datasets.Dataset, got {type(train).__name__}. Leave it out.")
    if args.reads_phrases and kwargs.get("data_collator") is None:
        _check_noun_phrases(args, train)
    evaluation = kwargs.get("eval_dataset")
    sets = evaluation.values() if isinstance(evaluation, dict) else [evaluation]
    if args.world_size > 1 and any(map(is_stream, sets)):
        raise ValueError("Evaluation on several processes needs a data set with a length, not a stream.")


def check_negatives(args: CIRTrainingArguments, negatives: Any, train: Any) -> None:
    """
    Check mined negatives, as [`check_arguments`] does the other arguments.

    Raises:
        ValueError: `hard_negatives` lacks the images or the column of their ids, or the column has another type.
    """
    if not args.hard_negatives:
        return
    if negatives is None:
        raise ValueError("hard_negatives needs the images of mined negatives. Give negatives=load_negatives([...]).")
    columns = _columns(train)
    if columns is not None and NEGATIVE_IDS not in columns:
        raise ValueError(
            f"hard_negatives needs a column {NEGATIVE_IDS}, which `contextcir mine` adds. Or leave it out."
        )
    has_negatives(getattr(train, "features", None))


def _check_stream(args: CIRTrainingArguments, train: Any) -> None:
    if args.max_steps <= 0:
        splits, batch = getattr(train, "info", None) and train.info.splits, args.train_batch_size * args.world_size
        rows = splits[train.split].num_examples if splits and train.split in splits else None
        batch *= args.gradient_accumulation_steps
        one_pass = f"{rows // batch} for a pass over its {rows} rows" if rows else f"one takes {batch} rows"
        raise ValueError(f"A stream of triplets has no length. Set max_steps: {one_pass}.")
    if args.encode_images_once:
        raise ValueError("encode_images_once needs all images in advance, not a stream. Leave it out.")
    for name in ("batch_by", "family_by", "distinct_targets"):
        if getattr(args, name):
            raise ValueError(f"{name} needs all rows in advance, not a stream. Leave it out.")
    if args.train_sampling_strategy != "random":
        raise ValueError(
            f"train_sampling_strategy={args.train_sampling_strategy} does not apply to a stream. Leave it out; with"
            " shuffle_buffer=0, rows come in the order in which they are stored."
        )
    for name in ("logging_strategy", "save_strategy", "eval_strategy"):
        if getattr(args, name) == "epoch":
            raise ValueError(f"A stream has no epochs. Set {name} to steps.")
    for name in ("dispatch_batches", "split_batches"):
        if getattr(args.accelerator_config, name):
            raise ValueError(f"{name} does not apply to a stream: each process reads its own batches. Leave it out.")
    if args.shuffle_buffer is not None and args.shuffle_buffer < 0:
        raise ValueError(f"shuffle_buffer must not be negative, got {args.shuffle_buffer}.")
    if isinstance(train, datasets.IterableDataset):
        if train._distributed is not None:
            raise ValueError("The stream is split over processes already. Give all of it: training splits it.")
        if _has_buffer(train._ex_iterable):
            raise ValueError(
                "The stream has a shuffle buffer, which no checkpoint can hold. Leave out its shuffle(): training"
                " shuffles it, see shuffle_buffer."
            )


def _has_buffer(source: Any) -> bool:
    """Return whether a step of a stream of `datasets` is a shuffle buffer."""
    before = [source.ex_iterable] if hasattr(source, "ex_iterable") else getattr(source, "ex_iterables", ())
    return isinstance(source, BufferShuffledExamplesIterable) or any(map(_has_buffer, before))


def _check_noun_phrases(args: CIRTrainingArguments, train: Any) -> None:
    columns = _columns(train)
    for weight, column, command in (
        ("cc_weight", "noun_phrases", "phrases"),
        ("grounding_weight", "noun_phrases", "phrases"),
        ("grounding_weight", PHRASE_MAPS, "ground"),
    ):
        if getattr(args, weight) and columns is not None and column not in columns:
            raise ValueError(f"There is no column {column}. `contextcir {command}` adds it; or set {weight} to 0.")


def _columns(train: Any) -> list[str] | None:
    """Return the columns of training data, `None` where they are unknown, as those of some streams."""
    if isinstance(train, (datasets.Dataset, datasets.IterableDataset)):
        return train.column_names
    return list(train[0]) if isinstance(train, (list, tuple)) and train else None
