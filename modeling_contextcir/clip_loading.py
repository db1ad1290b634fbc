"""Load weights and token ids: what does not fit is refused by name, and pickles are read only if asked for."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import file_exists
from torch import nn
from transformers import (
    AutoTokenizer,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    MetaClip2Model,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_utils import load_state_dict
from transformers.utils import cached_file, logging
from transformers.utils.hub import extract_commit_hash

logger = logging.get_logger(__name__)

BACKBONES: dict[str | None, Any] = {"clip": CLIPModel, None: CLIPModel, "metaclip_2": MetaClip2Model}
# Why others cannot be the encoders, and what it would take
OTHERS = {
    "siglip": "has no begin token and no class token, reads texts in both directions and pools images by attention: it"
    " needs encoders and an empty text of its own",
    "owlvit": "is a CLIP made for detection. Start from the CLIP that it was made of",
    "xclip": "is for video: its image encoder mixes frames. Start from the CLIP that it was made of",
    "clipseg": "is a CLIP with a decoder for segmentation. Start from the CLIP that it holds",
    "altclip": "has XLM-RoBERTa as its text encoder, which is not causal: it needs an encoder and masks of its own",
    "chinese_clip": "has BERT as its text encoder, which is not causal: it needs an encoder and masks of its own",
    "clip_text_model": "is half of a CLIP. Take the whole one",
    "clip_vision_model": "is half of a CLIP. Take the whole one",
}
OTHERS |= {"siglip2": OTHERS["siglip"], "owlv2": OTHERS["owlvit"]}
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "subfolder", "force_download", "proxies")
SMALLEST_VOCABULARY = 256 + 2  # byte-level BPE: all bytes, begin and end
WRAPPED = {r"_orig_mod\.": "", r"\.base_layer\.": "."}  # names in a compiled model, and beside adapters of LoRA
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.bin")


def load_clip(name_or_path: str | PathLike, own_type: str, **kwargs: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """
    Load a CLIP model, in float32 unless `dtype` is given.

    Args:
        name_or_path (`str`): Folder or Hub name.
        own_type (`str`): `model_type` of the model that is made of it, for the error.
        **kwargs: Of `from_pretrained`, and `allow_pickle`.

    Returns:
        `tuple[PreTrainedModel, dict]`: The model, a `CLIPModel` or a `MetaClip2Model`, and configs of its encoders as
        those of CLIP: `text_config` and `vision_config`.

    Raises:
        ValueError: It is another kind of model, or as [`load_whole`].
    """
    stored, _ = PreTrainedConfig.get_config_dict(name_or_path, **hub_options(kwargs))
    model_type = stored.get("model_type")
    if model_type not in BACKBONES:
        reason = OTHERS.get(model_type, "is no CLIP: the encoders must have its tensors")
        if model_type == own_type:
            reason = "is such a model already: use from_pretrained"
        kinds = " and ".join(filter(None, BACKBONES))
        raise ValueError(f"{str(name_or_path)!r}: {model_type} {reason}. from_clip_pretrained takes {kinds}.")
    if "dtype" not in kwargs and "torch_dtype" not in kwargs:
        kwargs["dtype"] = torch.float32
        saved = stored.get("dtype") or stored.get("torch_dtype")
        if saved not in (None, "float32"):
            logger.warning(
                f"{str(name_or_path)!r} is stored in {saved} and loaded in float32, since small updates are lost in"
                " half precision. Train with bf16=True; give dtype only to embed."
            )
    clip = load_whole(BACKBONES[model_type].from_pretrained, name_or_path, **kwargs)[0]
    configs = {}
    for name, kind in (("text_config", CLIPTextConfig), ("vision_config", CLIPVisionConfig)):
        config = getattr(clip.config, name)
        if not isinstance(config, kind):
            config = kind(**{key: getattr(config, key) for key in kind.__annotations__ if hasattr(config, key)})
        configs[name] = config
    return clip, configs


def load_whole(load: Any, name_or_path: str | PathLike, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """
    Load a model with `load`, a `from_pretrained` of transformers, and refuse weights that do not fit it.

    Args:
        load (`Callable`): Method that loads.
        name_or_path (`str`): Folder or Hub name.
        *args: Of `from_pretrained`.
        **kwargs: Of `from_pretrained`. With `allow_pickle`, weights may also be in `.bin` files, which are read with
            `weights_only`. `ignore_mismatched_sizes` keeps its meaning.

    Returns:
        `tuple[PreTrainedModel, dict]`: The model, and transformers' loading info.

    Raises:
        ValueError: A file is damaged, there are pickles only, or tensors are missing, unknown, of another shape, NaN
            or infinite.
    """
    ignore_shapes = kwargs.pop("ignore_mismatched_sizes", False)
    allow_pickle = kwargs.pop("allow_pickle", False)
    if not allow_pickle:
        kwargs.setdefault("use_safetensors", True)
    options = {**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with _naming_damaged_files(name_or_path), _explaining_pickles(name_or_path, kwargs, allow_pickle):
        model, info = load(name_or_path, *args, **options)
        if any(re.search("|".join(WRAPPED), key) for key in info["unexpected_keys"]):
            model, info = load(name_or_path, *args, **options, key_mapping=WRAPPED)
            if hasattr(model, "_weight_conversions"):  # by which transformers would save under the old names
                del model._weight_conversions
            _merge_adapters(model, info, name_or_path)
    _refuse_unfitting_weights(model, info, name_or_path, ignore_shapes)
    return model, info


def hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return those arguments of `from_pretrained` that say where files are."""
    return {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}


def commit_of(name_or_path: str | PathLike, **where: Any) -> str | None:
    """Return the commit of the config of a model on the Hub, which is that of its weights; `None` for a folder."""
    if Path(name_or_path).is_dir():
        return None
    return extract_commit_hash(cached_file(str(name_or_path), "config.json", **where), None)


def empty_text_of_tokenizer(
    name_or_path: str | PathLike, vocab_size: int, **kwargs: Any
) -> tuple[list[int] | None, int | None]:
    """
    Read the token ids of the empty text, begin and end, and of padding from a tokenizer.

    Args:
        name_or_path (`str`): Folder or Hub name of a model.
        vocab_size (`int`): Number of tokens that the model knows.
        **kwargs: Options of the Hub.

    Returns:
        `tuple[list[int], int]`, both *optional*: `None` where there is no tokenizer, or one without begin and end.

    Raises:
        ValueError: The tokenizer has more entries than the model knows tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False, **kwargs)
        ids = list(tokenizer("").input_ids)
    except Exception:  # a model without a tokenizer; transformers has many errors for that
        return None, None
    # Where the vocabulary files are missing, transformers makes a tokenizer of begin and end only.
    if len(tokenizer) < SMALLEST_VOCABULARY or len(ids) != 2:
        return None, None
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"{name_or_path}: the tokenizer has {len(tokenizer)} entries, the text encoder knows {vocab_size} tokens."
            " Take the tokenizer that the model was trained with."
        )
    return ids, tokenizer.pad_token_id


def check_tokenizer(config: Any, name_or_path: str | PathLike, **kwargs: Any) -> None:
    """
    Compare the empty text of a model with that of the tokenizer beside it.

    Raises:
        ValueError: They differ. Models from before `begin_end_token_ids` keep the ids that they were trained with,
            and a warning names both.
    """
    ids, _ = empty_text_of_tokenizer(name_or_path, config.text_config.vocab_size, **kwargs)
    if ids is None or tuple(ids) == config.empty_text_ids:
        return
    problem = (
        f"{str(name_or_path)!r}: the empty text of the model is {config.empty_text_ids}, that of its tokenizer"
        f" {tuple(ids)}."
    )
    if config.begin_end_token_ids is not None:
        raise ValueError(f"{problem} Put the tokenizer there that the model was trained with.")
    logger.warning(f"{problem} It was trained so, and is used so.")


@contextmanager
def _naming_damaged_files(name_or_path: str | PathLike) -> Iterator[None]:
    """Add the name of a damaged file to safetensors' error, which does not say it. The error is recognised by its
    name: this file imports only torch, transformers and huggingface_hub."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        damaged = next(filter(_is_damaged, sorted(Path(name_or_path).glob("*.safetensors"))), None)
        where = damaged or f"A file of the weights of {str(name_or_path)!r}"  # in the cache of the Hub
        raise ValueError(f"{where} is incomplete or damaged ({error}). Write or download it again.") from error


def _is_damaged(path: Path) -> bool:
    try:
        load_state_dict(path, map_location="meta")  # headers only
    except Exception:
        return True
    return False


@contextmanager
def _explaining_pickles(name_or_path: str | PathLike, kwargs: dict[str, Any], allow_pickle: bool) -> Iterator[None]:
    """Say what to do where transformers finds no safetensors, but there are pickles."""
    try:
        yield
    except OSError as error:
        pickle = None if allow_pickle else next(_pickles(name_or_path, kwargs), None)
        if pickle is None:
            raise
        raise ValueError(
            f"{str(name_or_path)!r} has its weights in {pickle}, a pickle, and not in safetensors. If you trust it,"
            " load it with allow_pickle=True (contextcir train --allow_pickle), and save it with save_pretrained."
        ) from error


def _pickles(name_or_path: str | PathLike, kwargs: dict[str, Any]) -> Iterator[str]:
    folder = Path(name_or_path, kwargs.get("subfolder") or "")
    for name in PICKLES:
        if folder.is_dir():
            if (folder / name).is_file():
                yield name
            continue
        try:
            options = {key: kwargs[key] for key in ("revision", "token") if kwargs.get(key) is not None}
            if file_exists(str(name_or_path), name, **options):
                yield name
        except Exception:  # no such repository, or no network: the first error says more
            return


def _merge_adapters(model: PreTrainedModel, info: dict[str, Any], folder: str | PathLike) -> None:
    """Add the adapters of a LoRA run's checkpoint to its resting weights. Their scale is saved beside them."""
    if "lora_scale" not in info["unexpected_keys"]:
        return
    saved = {key: value for file in Path(folder).glob("*.safetensors") for key, value in load_state_dict(file).items()}
    with torch.no_grad():
        for key in [key for key in info["unexpected_keys"] if ".lora_A." in key and key in saved]:
            update = saved["lora_scale"] * saved[key.replace(".lora_A.", ".lora_B.")].float() @ saved[key].float()
            weight = model.get_parameter(key.partition(".lora_A.")[0] + ".weight")
            weight += update.to(weight)
    info["unexpected_keys"] = {key for key in info["unexpected_keys"] if key not in saved}


def _refuse_unfitting_weights(
    model: nn.Module, info: dict[str, Any], name_or_path: str | PathLike, ignore_shapes: bool
) -> None:
    if any(".lora_A." in key for key in info["unexpected_keys"]):
        raise ValueError(
            f"{str(name_or_path)!r} holds adapters of LoRA that are not merged, and not their scale. Resume the run,"
            " which merges them at its end; with get_peft_model, load the adapter on its base."
        )
    infinite = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    # Buffers in files of transformers 4
    unknown = sorted(key for key in info["unexpected_keys"] if not key.endswith("position_ids"))
    shapes = sorted(
        f"{key} of shape {tuple(got)} where the model has {tuple(expected)}"
        for key, got, expected in info["mismatched_keys"]
    )
    missing = sorted(set(info["missing_keys"]) - {key for key, *_ in info["mismatched_keys"]})
    for problem, keys in (
        ("lack", missing),
        ("hold", [] if ignore_shapes else shapes),
        ("hold the unknown", unknown),
        ("hold NaN or infinite values in", infinite),
    ):
        if keys:
            names = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            advice = "Is it the folder of another model?" if "unknown" in problem or keys is shapes else ""
            raise ValueError(
                f"The weights in {str(name_or_path)!r} {problem} {names}. Write or download them again."
                f" {advice}".rstrip()
            )
