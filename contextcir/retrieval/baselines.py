"""Baselines from CLIP alone: the reference image, the text, and three ways to combine both.

A model that does not beat them has not learned to compose. All embed gallery images in the same way, so that they
share one encoding of a gallery.
"""

from typing import Any

import torch

from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.towers import model_towers
from contextcir.retrieval.zero_shot.compose import compose

BASELINES = {  # name in results -> composition
    "CLIP, image only": "image",
    "CLIP, text only": "text",
    "CLIP, image + text": "sum",
    "CLIP, slerp": "slerp",
    "CLIP, image x text": "product",
}
WITHOUT_REFERENCE = ("CLIP, text only",)  # need no reference image


def clip_baselines(
    clip_model: Any, processor: Any, *, autocast: torch.dtype | None = None, **options: Any
) -> dict[str, DenseRetriever]:
    """
    Build the baselines.

    Args:
        clip_model (`CLIPModel`): On the device to run on.
        processor: Its processor. Texts are truncated to the length of CLIP's text encoder.
        autocast (`torch.dtype`, *optional*): Encode under autocast to this type.
        **options: `batch_size`, `num_workers` and `keep`, as for [`DenseRetriever`].

    Returns:
        `dict[str, DenseRetriever]`: With the names of `BASELINES` as keys, each as in
        [`~contextcir.retrieval.zero_shot.compose`].
    """
    towers = model_towers(clip_model, processor, autocast=autocast)
    return {name: compose(towers, how, **options) for name, how in BASELINES.items()}
