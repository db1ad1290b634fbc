"""Load what commands measure: models, the CLIP that a model was trained from, and CLIP itself."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModel, AutoProcessor, CLIPModel
from transformers.utils import cached_file

from contextcir.bridges.onnx_encoder import OnnxEncoder, read_record, usable_device
from contextcir.retrieval.baselines import clip_baselines
from contextcir.retrieval.dense import DenseRetriever
from contextcir.runtime.locations import locate
from contextcir.runtime.protocols import RetrievalModel
from modeling_contextcir import ContextCIRProcessor  # registers all models with the Auto classes as well
from modeling_contextcir.clip_loading import load_whole


def load_clip(name: str, device: torch.device) -> CLIPModel:
    """
    Load a whole CLIP in float32.

    Raises:
        `ValueError`: A tensor is missing, which would be replaced by random numbers, unknown, of another shape or not
            finite, or there are pickles only.
    """
    return load_whole(CLIPModel.from_pretrained, locate(name), dtype=torch.float32)[0].to(device)


def load_clip_baselines(name: str, device: torch.device, **options: Any) -> dict[str, DenseRetriever]:
    """Load a CLIP and its processor, and make its baselines. Errors as in [`load_clip`]; options and result as for
    [`~contextcir.retrieval.baselines.clip_baselines`]."""
    return clip_baselines(load_clip(name, device), ContextCIRProcessor.from_pretrained(locate(name)), **options)


class Encoder(NamedTuple):
    """
    What embeds queries and images.

    Attributes:
        model: The model, or `None` where there are ONNX graphs in its place.
        processor: Its processor.
        retriever ([`~contextcir.retrieval.dense.DenseRetriever`]): Of both.
    """

    model: Any
    processor: Any
    retriever: DenseRetriever


def load_encoder(
    name: str,
    device: torch.device,
    *,
    autocast: torch.dtype | None = None,
    strict_device: bool = False,
    reading: Callable[[Any], Mapping[str, Any]] | None = None,
    **options: Any,
) -> Encoder:
    """
    Load a model of transformers, or a folder of `contextcir export`, to retrieve with.

    Args:
        name (`str`): Folder or Hub name.
        device (`torch.device`): Where it runs.
        autocast (`torch.dtype`, *optional*): Embed under autocast to this type.
        strict_device (`bool`, defaults to `False`): Refuse a device that onnxruntime cannot use, instead of taking the
            CPU with a warning.
        reading (`Callable`, *optional*): Makes more options from the processor.
        **options: Of the retriever: `batch_size`, `num_workers`, `draft_side` and `keep`.

    Raises:
        `ValueError`: The model does not embed queries, or its graphs cannot be used so.
    """
    exported = read_record(locate(name))
    if exported is None:
        model, processor = load_model(name, device)
        more = reading(processor) if reading else {}
        retriever = DenseRetriever.from_model(model, processor, autocast=autocast, **options, **more)
        return Encoder(model, processor, retriever)
    if autocast is not None:
        raise ValueError(
            f"{name} is exported in {exported['precision']}, and cannot embed under autocast to {autocast}."
        )
    processor = AutoProcessor.from_pretrained(locate(name))
    more = reading(processor) if reading else {}
    where = device if strict_device else usable_device(device)
    return Encoder(None, processor, OnnxEncoder(locate(name), processor, where, **options, **more))


def load_model(name: str, device: torch.device):
    """
    Load a model that embeds queries, in float32, and its processor.

    Raises:
        `ValueError`: The model does not embed queries, or is an exported one.
    """
    name = locate(name)
    if (exported := read_record(name)) is not None:
        raise ValueError(f"{name} is an export of {exported['model']}, and the model itself is needed here.")
    model = AutoModel.from_pretrained(name, dtype=torch.float32).to(device)
    if not isinstance(model, RetrievalModel):
        raise ValueError(
            f"{name} is a {type(model).__name__}, which has no get_query_features. To measure a CLIP model, give"
            f" --baselines --clip {name}."
        )
    return model, AutoProcessor.from_pretrained(name)


def find_clip(name: str) -> str:
    """
    Find the CLIP that a model was trained from, directly or by way of other models, as `training.json` says.

    Raises:
        `ValueError`: The model has no `training.json`.
    """
    seen = [name]
    while path := cached_file(
        locate(seen[-1]),
        "training.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
    ):
        base = json.loads(Path(path).read_text(encoding="utf-8")).get("model", {}).get("base_model")
        if not base or base in seen:
            break
        seen.append(base)
    if len(seen) == 1:
        raise ValueError(f"{name} has no training.json that names the CLIP it was trained from. Give --clip.")
    return seen[-1]
