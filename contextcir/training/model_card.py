"""What people read of a run: its arguments, and its model card, rendered from the record and never typed."""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

ALWAYS_RECORDED = ("seed", "optim", "per_device_train_batch_size", "gradient_accumulation_steps", "warmup_steps")
NEVER_RECORDED = (
    "output_dir",
    "run_name",
    "hub_token",
    "accelerator_config",
    "disable_tqdm",
    "resume_from_checkpoint",
    "push_to_hub",
)


def recorded_arguments(args) -> dict[str, Any]:
    """The training arguments that a record keeps: those of this library, and those of transformers that decide the
    result or differ from their default."""
    values, own = args.to_dict(), [kind for kind in type(args).__mro__ if kind.__module__.startswith("contextcir.")]
    always = {*ALWAYS_RECORDED}.union(*(kind.__annotations__ for kind in own))
    return {
        option.name: values[option.name]
        for option in fields(args)
        if option.name not in NEVER_RECORDED
        and (option.name in always or values[option.name] not in (option.default, None, "", [], {}))
    }


def write_model_card(
    record: dict[str, Any], template: str | os.PathLike, folder: str | os.PathLike, model_name: str | None = None
) -> None:
    """
    Renders `README.md`.

    Args:
        record (`dict`): [`CIRTrainer.record`].
        template (`str` or `os.PathLike`): Jinja template, filled with the record.
        folder (`str` or `os.PathLike`): Of the model, and its name unless another is given.
        model_name (`str`, *optional*): The card's title.
    """
    data = ModelCardData(
        library_name="transformers",
        tags=["composed-image-retrieval", "contextcir"],
        # The Hub refuses names that are not its own.
        base_model=_hub_name(record["model"].get("base_model")),
        datasets=[name for name in map(_hub_name, record.get("data", {}).get("names", [])) if name] or None,
    )
    name = model_name or Path(folder).resolve().name
    card = ModelCard.from_template(data, template_path=str(template), model_name=name, **record)
    card.save(os.path.join(folder, "README.md"))


def _hub_name(name: str | None) -> str | None:
    return None if name is None or os.path.exists(name) else name
