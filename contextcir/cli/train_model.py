"""The model that `contextcir train` trains: from a CLIP or an earlier model, with LoRA adapters if asked for."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModel, AutoProcessor

from contextcir.cli.train_arguments import ModelArguments, models
from contextcir.runtime.locations import locate


def build_model(args: ModelArguments):
    """
    Model (float32) and processor from CLIP or from an earlier model.

    Raises:
        ValueError: The earlier model is none of `models()`, or the tokenizer has more entries than its text encoder.
    """
    options: dict[str, Any] = {"attn_implementation": args.attn_implementation, "dtype": torch.float32}
    if args.allow_pickle:
        options["allow_pickle"] = True
    revision = {"revision": args.model_revision} if args.model_revision else {}
    if args.model_name_or_path:
        name = locate(args.model_name_or_path)
        model = AutoModel.from_pretrained(name, **options, **revision)
        if model.config.model_type not in models():
            raise ValueError(
                f"{name} is a {type(model).__name__}. To start from a CLIP model, give clip_name_or_path."
            )
        processor = AutoProcessor.from_pretrained(name, **revision)
    else:
        name = locate(args.clip_name_or_path or "")
        model_class, processor_class = models()[args.model or "contextcir"]
        model = model_class.from_clip_pretrained(name, **options, **revision, **args.config_fields)
        processor = processor_class.from_pretrained(name, image_fit=args.image_fit, **revision)
    entries, vocab_size = len(processor.tokenizer), model.config.text_config.vocab_size
    if entries > vocab_size:
        raise ValueError(
            f"{name}: the tokenizer has {entries} entries, the text encoder knows {vocab_size} tokens. Take the"
            " tokenizer that the model was trained with."
        )
    longest = model.config.text_config.max_position_embeddings
    if processor.max_length > longest:  # a tokenizer that other models use as well, as that of MetaCLIP 2
        processor.tokenizer.model_max_length = longest
    return model, processor


def add_lora(model, args: ModelArguments) -> Callable[[], None]:
    """
    Puts LoRA adapters into the encoders, in place; all outside the encoders trains in full.

    Checkpoints of the run hold the adapters beside the resting weights, and their scale, with which they load as a
    model. The returned function merges them, so that the model that is saved in the end is a plain one.
    """
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as error:
        raise ImportError("lora_rank needs peft: pip install contextcir[peft].") from error
    config = LoraConfig(r=args.lora_rank, lora_alpha=args.lora_alpha, target_modules=args.lora_target_modules)
    trained = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith(("text_model.", "vision_model."))
    ]
    adapted = LoraModel(model, config, "default")
    for parameter in trained:
        parameter.requires_grad_(True)
    model.register_buffer("lora_scale", torch.tensor(args.lora_alpha / args.lora_rank))

    def merge() -> None:
        adapted.merge_and_unload()
        del model.lora_scale

    return merge
