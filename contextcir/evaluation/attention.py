"""Attention maps of noun phrases over the reference image: figure 5 of ConText-CIR (CVPR 2025) as arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from contextcir.runtime.inference import evaluation_mode

Maps = list[np.ndarray | None]


def attention_maps(
    model: Any, processor: Any, images: Sequence[Image.Image], texts: Sequence[str], noun_phrases: Sequence[Mapping]
) -> tuple[Maps, Maps]:
    """
    Compute where a model attends for noun phrases.

    Args:
        model (`torch.nn.Module`): A model with `get_concept_attentions`.
        processor: Its processor.
        images (`Sequence[Image.Image]`): The reference image of each phrase, RGB.
        texts (`Sequence[str]`): The text of each phrase.
        noun_phrases (`Sequence[Mapping]`): `{"text", "start", "end"}`, characters of the text. May be empty.

    Returns:
        `tuple` of two `list[np.ndarray | None]`: In context and isolated. For each phrase a distribution over patches,
        shape `(rows, columns)`, from the top left of the image as the processor crops it; `None` if the phrase has no
        tokens of its own in the text, for example because it was cut off.

    Raises:
        `ValueError`: A span is outside of its text.
    """
    maps: tuple[Maps, Maps] = [None] * len(noun_phrases), [None] * len(noun_phrases)
    if not noun_phrases:
        return maps
    # One phrase a row: then `phrase_sample` has the rows whose phrase the processor kept.
    rows = {"text": list(texts), "noun_phrases": [[phrase] for phrase in noun_phrases]}
    inputs = processor(images=list(images), **rows, return_tensors="pt")
    for counter in ("num_truncated_texts", "num_dropped_phrases"):
        del inputs[counter]
    kept = inputs["phrase_sample"].tolist()
    height, width = inputs["pixel_values"].shape[2:]
    with evaluation_mode(model) as device, torch.inference_mode():
        both = model.get_concept_attentions(**inputs.to(device))  # 2 x (num_kept, num_patches)
    for kind, attentions in enumerate(both):
        grid_height = round((attentions.shape[1] * height / width) ** 0.5)  # patches are square
        for row, grid in zip(kept, attentions.float().cpu().unflatten(1, (grid_height, -1)).numpy(), strict=True):
            maps[kind][row] = grid
    return maps
