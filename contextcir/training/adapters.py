"""LoRA adapters of the encoders, for `peft.get_peft_model`, with all that a start from CLIP has at random.

    config = lora_config(model, rank=16)
    trainer = CIRTrainer(peft.get_peft_model(model, config), args, ...)
    trainer.train()
    trainer.save_model("runs/adapter")  # adapter_model.safetensors and adapter_config.json only

    base = ContextCIRModel.from_clip_pretrained("openai/clip-vit-base-patch32")
    model = peft.PeftModel.from_pretrained(base, "runs/adapter")
    model.merge_and_unload().save_pretrained("runs/merged")  # a plain model, which loads without peft

`contextcir train --lora_rank` does the same in place, and saves the merged model. Parameters outside of modules, the
temperature and the lambda of InstructCIR, stay as they are: peft has no place for them.
"""

from typing import Any

from torch import nn

ENCODERS = ("text_model", "vision_model")
ENCODER_LAYERS = r"(text_model|vision_model)\..*\.(q_proj|v_proj)"


def lora_config(
    model: nn.Module,
    rank: int = 16,
    *,
    alpha: int = 32,
    target_modules: str = ENCODER_LAYERS,
    dropout: float = 0.0,
    **kwargs: Any,
) -> Any:
    """
    Make a configuration of LoRA for a model of this library.

    Args:
        model (`nn.Module`): Such as a `ContextCIRModel`.
        rank (`int`, defaults to 16): Rank of the adapters.
        alpha (`int`, defaults to 32): Their scale, over the rank.
        target_modules (`str`): Pattern of the linear layers that get an adapter; by default those of queries and
            values in both encoders.
        dropout (`float`, defaults to 0): Dropout before the adapters.
        **kwargs: Of `peft.LoraConfig`. `modules_to_save` are further ones.

    Returns:
        `peft.LoraConfig`: With all modules outside the encoders in `modules_to_save`, so that they are trained in full
        and saved with the adapters. Without that, they would stay random and frozen, and would not be saved.

    Raises:
        ImportError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install contextcir[peft].") from error
    others = [*modules_outside_encoders(model), *(kwargs.pop("modules_to_save", None) or [])]
    options = {"r": rank, "lora_alpha": alpha, "target_modules": target_modules, "lora_dropout": dropout}
    return LoraConfig(**options, modules_to_save=list(dict.fromkeys(others)), **kwargs)


def modules_outside_encoders(model: nn.Module) -> list[str]:
    """
    Return names for `modules_to_save` that together are all modules with parameters outside the encoders.

    peft finds modules by the end of their names, and cannot save a list of modules. So the parts of a list are named
    each, and those of a module inside of which another name of the list occurs: ContextCIR's `projection` is also the
    end of `fusion.input_projection`.
    """
    tops = [name for name, child in model.named_children() if name not in ENCODERS and _has_parameters(child)]

    def parts(name: str, module: nn.Module) -> list[str]:
        inner = [below for below, _ in module.named_modules() if below]
        if isinstance(module, nn.ModuleList) or any(below.endswith(top) for below in inner for top in tops):
            children = [(f"{name}.{child}", part) for child, part in module.named_children()]
            return [part for below, child in children if _has_parameters(child) for part in parts(below, child)]
        return [name]

    names = [part for top in tops for part in parts(top, model.get_submodule(top))]
    return [name for name in names if name in tops or not any(name.endswith(top) for top in tops)]


def saved_tensors(model: nn.Module) -> set[str]:
    """Return the names of the tensors that `save_pretrained` writes: of a `PeftModel` those of the adapter, of another
    model all. Tied ones are written once, under the first name."""
    if hasattr(model, "peft_config"):
        from peft import PeftModel, get_peft_model_state_dict

        if isinstance(model, PeftModel):
            return set(get_peft_model_state_dict(model, adapter_name=model.active_adapter))
    return model.state_dict().keys() - getattr(model, "all_tied_weights_keys", {}).keys()


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
