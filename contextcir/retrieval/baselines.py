"""Baselines from CLIP alone: the reference image, the text, and three ways to combine both.

A model that does not beat them has not learned to compose. All embed gallery images in the same way, so that they
share one encoding of a gallery.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image

from contextcir.retrieval.dense import DenseRetriever, EncodeQueries, GalleryEmbeds, PixelValues, normalize
from contextcir.retrieval.identity import ModelIdentity
from contextcir.runtime.inference import evaluation_mode, weights_state

BASELINES = ("CLIP, image only", "CLIP, text only", "CLIP, image + text", "CLIP, slerp", "CLIP, image x text")
WITHOUT_REFERENCE = ("CLIP, text only",)  # need no reference image
SLERP_TEXT_WEIGHT = 0.8


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
        `dict[str, DenseRetriever]`: With the names of `BASELINES` as keys:

        - `CLIP, image only`: the embedding of the reference image; `CLIP, text only`: that of the text;
        - `CLIP, image + text`: the normalised sum of both;
        - `CLIP, slerp`: spherical interpolation, 0.8 of the way to the text (Jang et al., arXiv 2405.00571). At 0.5
          the ranking would be that of the sum;
        - `CLIP, image x text`: the product of an image's similarities to both; negative ones are clamped to 0, as in
          FreeDom (Efthymiadis et al., WACV 2025).
    """
    max_length = clip_model.config.text_config.max_position_embeddings

    prepare = PixelValues(processor)

    def encode_images(pixel_values: torch.Tensor) -> torch.Tensor:
        with evaluation_mode(clip_model, autocast) as device:
            return normalize(clip_model.get_image_features(pixel_values.to(device)).pooler_output)

    def encode_texts(texts: list[str]) -> torch.Tensor:
        with evaluation_mode(clip_model, autocast) as device:
            inputs = processor(text=texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
            inputs = {name: inputs[name].to(device) for name in ("input_ids", "attention_mask")}
            return normalize(clip_model.get_text_features(**inputs).pooler_output)

    def image_only(images: list[Image.Image | None], texts: list[str]) -> torch.Tensor:
        given = [image for image in images if image is not None]
        if len(given) < len(images):
            raise ValueError("This baseline needs reference images, and there are queries without one.")
        return encode_images(torch.stack([prepare(image) for image in given]))

    def both(compose: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> EncodeQueries:
        return lambda images, texts: compose(image_only(images, texts), encode_texts(texts))

    galleries = GalleryEmbeds(partial(weights_state, clip_model))
    options |= {"prepare": prepare, "identity": ModelIdentity(clip_model, processor, autocast)}
    encoders: tuple[EncodeQueries, ...] = (
        image_only,
        lambda images, texts: encode_texts(texts),
        both(lambda image, text: normalize(image + text)),
        both(lambda image, text: slerp(image, text, SLERP_TEXT_WEIGHT)),
        both(lambda image, text: torch.stack([image, text], dim=1)),  # (batch_size, 2, dim): similarities multiply
    )
    return {
        name: DenseRetriever(encode_images, encode, galleries=galleries, **options)
        for name, encode in zip(BASELINES, encoders, strict=True)
    }


def slerp(start: torch.Tensor, end: torch.Tensor, weight: float) -> torch.Tensor:
    """Interpolate between L2-normalised vectors of shape `(batch_size, dim)` along the great circle: a `weight` of 0
    gives `start`, 1 gives `end`. If both are equal or opposite, return `start`."""
    angle = (start * end).sum(dim=-1, keepdim=True).clamp(-1, 1).acos()  # (batch_size, 1)
    way = (torch.sin((1 - weight) * angle) * start + torch.sin(weight * angle) * end) / torch.sin(angle)
    return torch.where(torch.sin(angle) > 1e-3, way, start)  # for smaller angles the quotient is rounding noise
