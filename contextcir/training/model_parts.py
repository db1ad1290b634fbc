"""Freeze parts of a model, and train the others in float32."""

from typing import Any

import torch
from transformers.utils import logging

from contextcir.training.training_args import CIRTrainingArguments

logger = logging.get_logger(__name__)

HALF = (torch.float16, torch.bfloat16)


def use_float32(model: torch.nn.Module) -> None:
    """Turn half-precision weights into float32, in place, and say so. In half precision most steps are lost: the
    weights are too coarse for them. Autocast (`bf16`) keeps the speed."""
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.dtype in HALF]
    if not tensors:
        return
    stored = " and ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))
    for tensor in tensors:
        tensor.data = tensor.data.float()
    logger.warning(
        f"The weights of the model were {stored}. It trains on float32 weights and is saved as float32; bf16=True"
        " computes matrix products in bfloat16."
    )


def freeze(model: Any, args: CIRTrainingArguments) -> None:
    """Freeze the parts of a model that the arguments name."""
    freeze = {"vision_model": args.freeze_vision, "text_model": args.freeze_text}
    freeze["logit_scale"] = not args.learn_temperature
    for name in filter(freeze.get, freeze):
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
