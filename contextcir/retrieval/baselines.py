"""Baselines that need nothing but the CLIP that a model started from.

What the reference image alone finds, what the text alone finds, and three ways to mix them. A model that does not beat
these has not learned to compose. All embed gallery images alike, so that a gallery is encoded once for all of them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from contextcir.retrieval.dense import DenseRetriever, GalleryEmbeds, normalize
from contextcir.runtime.inference import evaluation_mode, weights_state

BASELINES = ("CLIP, image only", "CLIP, text only", "CLIP, image + text", "CLIP, slerp", "CLIP, image x text")
WITHOUT_REFERENCE = ("CLIP, text only",)  # need no reference image
SLERP_TEXT_WEIGHT = 0.8


def clip_baselines(
    clip_model, processor, *, autocast: torch.dtype | None = None, **options: Any
) -> dict[str, DenseRetriever]:
    """
    Build the baselines.

    Args:
        clip_model (`CLIPModel`): On the device to run on.
        processor: Its processor. Texts are cut at the length of CLIP's text encoder.
        autocast (`torch.dtype`, *optional*): Encode under autocast to this type.
        **options: `batch_size` and `num_threads`, as for [`DenseRetriever`].

    Returns:
        `dict[str, DenseRetriever]`: By the names of `BASELINES`:

        - `CLIP, image only`: the embedding of the reference image; `CLIP, text only`: that of the text;
        - `CLIP, image + text`: the normalised sum of both;
        - `CLIP, slerp`: spherical interpolation, 0.8 of the way to the text (Jang et al., arXiv 2405.00571). Half of
          the way ranks exactly as the sum does;
        - `CLIP, image x text`: the product of an image's similarities to both, negative ones clamped to 0, as in
          FreeDom (Efthymiadis et al., WACV 2025).
    """
    max_length = clip_model.config.text_config.max_position_embeddings

    def encode_images(images):
        with evaluation_mode(clip_model, autocast) as device:
            pixel_values = processor(images=images, return_tensors="pt")["pixel_values"].to(device)
            return normalize(clip_model.get_image_features(pixel_values).pooler_output)

    def encode_texts(texts):
        with evaluation_mode(clip_model, autocast) as device:
            inputs = processor(text=texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
            names = ("input_ids", "attention_mask")
            return normalize(
                clip_model.get_text_features(**{name: inputs[name].to(device) for name in names}).pooler_output
            )

    def image_alone(images, texts):
        if any(image is None for image in images):
            raise ValueError("This baseline reads the reference image, and there are queries without one.")
        return encode_images(images)

    def both(compose: Callable) -> Callable:
        return lambda images, texts: compose(image_alone(images, texts), encode_texts(texts))

    galleries = GalleryEmbeds(partial(weights_state, clip_model))
    encoders = (
        image_alone,
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
    """
    Interpolate on the great circle between two directions.

    Args:
        start (`torch.Tensor` of shape `(batch_size, dim)`): L2-normalised.
        end (`torch.Tensor` of shape `(batch_size, dim)`): L2-normalised.
        weight (`float`): 0 gives `start`, 1 gives `end`.

    Returns:
        `torch.Tensor` of shape `(batch_size, dim)`: L2-normalised. Where both are the same or opposite, `start`.
    """
    angle = (start * end).sum(dim=-1, keepdim=True).clamp(-1, 1).acos()  # (batch_size, 1)
    way = (torch.sin((1 - weight) * angle) * start + torch.sin(weight * angle) * end) / torch.sin(angle)
    return torch.where(torch.sin(angle) > 1e-3, way, start)  # for smaller angles the quotient is rounding noise
