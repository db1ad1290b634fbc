"""What of a model rests while the rest of it trains."""

import torch

from contextcir.training.training_args import CIRTrainingArguments


def freeze_parts(model: torch.nn.Module, args: CIRTrainingArguments) -> None:
    """
    Takes the gradient from what the arguments let rest.

    Raises:
        ValueError: `train_only` is no part of the model; those that it has are named.
    """
    resting = {"vision_model": args.freeze_vision, "text_model": args.freeze_text}
    for name, frozen in {**resting, "logit_scale": not args.learn_temperature}.items():
        if frozen:
            getattr(model, name).requires_grad_(False)
    if args.train_only is not None:
        part = getattr(model, args.train_only, None)
        if not isinstance(part, (torch.nn.Module, torch.nn.Parameter)):
            parts = dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters())
            raise ValueError(
                f"{type(model).__name__} has no part {args.train_only!r} to train only. It has {', '.join(parts)}."
            )
        model.requires_grad_(False)
        part.requires_grad_(True)
