"""Two encoders with one space: images and texts are embedded separately, as by CLIP. They cannot read a composed query
by themselves; [`~contextcir.retrieval.zero_shot.compose.compose`] says how both halves become one.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image

from contextcir.retrieval.dense import EncodeImages, GalleryEmbeds, normalize
from contextcir.retrieval.identity import Identity, ModelIdentity
from contextcir.retrieval.loading import stack
from contextcir.runtime.inference import evaluation_mode, weights_state

PADDED_TO_THE_END = ("siglip", "siglip2")  # were trained with texts of one length
MULTI_VECTOR = ("blip-2",)


@dataclass(frozen=True)
class Towers:
    """
    An image encoder and a text encoder.

    Args:
        encode_images (`Callable`): Images, or what `prepare` made of them -> L2-normalised `(batch_size, dim)`.
        encode_texts (`Callable[[list[str]], torch.Tensor]`): Texts -> L2-normalised `(batch_size, dim)`.
        prepare, identity, galleries: As for [`~contextcir.retrieval.dense.DenseRetriever`].
    """

    encode_images: EncodeImages
    encode_texts: Callable[[list[str]], torch.Tensor]
    prepare: Callable[[Image.Image], Any] | None = None
    identity: Identity | Callable[[], Identity] | None = None
    galleries: GalleryEmbeds = field(default_factory=GalleryEmbeds)

    def prepared(self, images: Sequence[Image.Image | None]) -> Any:
        """Prepare the reference images of queries for `encode_images`. Raises a `ValueError` if a query has none."""
        given = [image for image in images if image is not None]
        if len(given) < len(images):
            raise ValueError("This method needs reference images, and there are queries without one.")
        return given if self.prepare is None else stack([self.prepare(image) for image in given])


def model_towers(model: Any, processor: Any, *, autocast: torch.dtype | None = None) -> Towers:
    """
    Take the two encoders of a model of transformers, with `get_image_features` and `get_text_features`: CLIP, SigLIP,
    SigLIP 2, ALIGN, and models with code of their own. BLIP's retrieval model is known by its two projections.

    Args:
        model (`PreTrainedModel`): On the device to run on.
        processor: Its processor. Texts are cut at the length of the text encoder.
        autocast (`torch.dtype`, *optional*): Encode under autocast to this type.

    Returns:
        [`Towers`]

    Raises:
        `ValueError`: The model does not give one vector for each image and each text.
    """
    of_images, of_texts = _encoders(model)
    model_type = getattr(model.config, "model_type", "")
    padding = "max_length" if model_type in PADDED_TO_THE_END else True
    options = {"padding": padding, "truncation": True, "max_length": _text_length(model, processor)}

    def encode_images(prepared: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        inputs = {name: torch.stack([one[name] for one in prepared]) for name in prepared[0]}
        return embed(of_images, inputs)

    def encode_texts(texts: list[str]) -> torch.Tensor:
        return embed(of_texts, processor(text=texts, **options, return_tensors="pt"))

    def embed(encode: Callable[..., Any], inputs: Any) -> torch.Tensor:
        known = inspect.signature(encode).parameters
        with evaluation_mode(model, autocast) as device:
            output = encode(**{name: value.to(device) for name, value in inputs.items() if name in known})
        return normalize(pooled(output))

    return Towers(
        encode_images,
        encode_texts,
        ImageInputs(processor),
        ModelIdentity(model, processor, autocast),
        GalleryEmbeds(partial(weights_state, model)),
    )


class ImageInputs:
    """Preprocess one image with a processor of transformers: name -> tensor, such as `pixel_values` `(3, height,
    width)`. Some processors give more, such as the shape of the image. Worker processes can have it."""

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, image: Image.Image) -> dict[str, torch.Tensor]:
        return {name: value[0] for name, value in self.processor(images=[image], return_tensors="pt").items()}


def pooled(output: Any) -> torch.Tensor:
    """The vectors that a `get_*_features` returns, `(batch_size, dim)`: models with code of their own return them
    bare."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def _encoders(model: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The functions that embed images and texts."""
    if getattr(model.config, "model_type", "") in MULTI_VECTOR:
        raise ValueError(
            f"{type(model).__name__} gives several vectors for each image, of which the nearest counts. Expected one"
            " vector for each image and text, as of CLIP, SigLIP or BLIP."
        )
    if hasattr(model, "vision_proj") and hasattr(model, "text_proj"):  # BlipForImageTextRetrieval

        def image(pixel_values: torch.Tensor) -> torch.Tensor:
            return model.vision_proj(model.vision_model(pixel_values=pixel_values).last_hidden_state[:, 0])

        def text(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            encoded = model.text_encoder(input_ids=input_ids, attention_mask=attention_mask)
            return model.text_proj(encoded.last_hidden_state[:, 0])

        return image, text
    names = ("get_image_features", "get_text_features")
    if missing := [name for name in names if not hasattr(model, name)]:
        raise ValueError(
            f"{type(model).__name__} has no {' and no '.join(missing)}. Expected a model that embeds images and texts,"
            " such as CLIP, SigLIP or BLIP. A model of another kind can be measured by two functions of your own:"
            " --retriever file.py."
        )
    return model.get_image_features, model.get_text_features


def _text_length(model: Any, processor: Any) -> int:
    """Most tokens of a text: those that the encoder and the tokenizer both know."""
    lengths = [
        getattr(getattr(model.config, "text_config", None), "max_position_embeddings", None),
        getattr(getattr(processor, "tokenizer", None), "model_max_length", None),  # 10**30 where there is no limit
    ]
    return min([512, *(length for length in lengths if isinstance(length, int) and length > 0)])
