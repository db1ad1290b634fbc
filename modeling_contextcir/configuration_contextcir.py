"""Configuration of ConText-CIR: two CLIP encoders and the shape of the fusion on top of them.

Paper: ConText-CIR (CVPR 2025), section 3.2. The paper leaves the widths, the number of fusion layers and the direction
of the cross-attention open; the defaults here follow the text encoder.
"""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .clip_config import TwoEncoders


@strict
class ContextCIRConfig(TwoEncoders, PreTrainedConfig):
    r"""
    Args:
        vision_config (`CLIPVisionConfig` or `dict`, *optional*):
            The image encoder.
        text_config (`CLIPTextConfig` or `dict`, *optional*):
            The text encoder. Its width and that of the image encoder may differ.
        projection_dim (`int`, defaults to 512):
            Size of the embedding that is searched.
        fusion_hidden_size (`int`, *optional*):
            Width of the fusion layers; the width of the text encoder when left out.
        fusion_num_layers (`int`, defaults to 2):
            Number of cross-attention blocks.
        fusion_num_heads (`int`, *optional*):
            Attention heads of the fusion; those of the text encoder when left out.
        fusion_intermediate_size (`int`, *optional*):
            Width of the feed-forward part; four times `fusion_hidden_size` when left out.
        fusion_direction (`str`, defaults to `"text_to_image"`):
            `"text_to_image"`: text tokens are the queries, image tokens the keys and values, so that the attention of
            a token is a distribution over the image. `"image_to_text"`: the other way round.
        fusion_class_token (`bool`, defaults to `True`):
            Whether the fusion sees the class token of the image beside its patches. Attention that goes there goes
            nowhere in the image, and is left out of the maps of noun phrases.
        target_encoding (`str`, defaults to `"fusion"`):
            How gallery images and query-image negatives are embedded. `"fusion"`: `f(I, "")`, the image fused with the
            empty text, as in the paper (section 3.4). `"clip"`: the plain projection of CLIP's image encoder.
        logit_scale_init_value (`float`, defaults to 2.6592):
            Logarithm of the inverse temperature at the start (CLIP's value).

    Raises:
        ValueError: for a field that does not exist (in the configs of the encoders: one that is almost the name of an
            existing one), and for sizes that do not fit together.

    Example:

    ```python
    >>> from modeling_contextcir import ContextCIRConfig, ContextCIRModel

    >>> model = ContextCIRModel(ContextCIRConfig(fusion_num_layers=1))
    ```"""

    model_type = "contextcir"

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 512
    fusion_hidden_size: int | None = None
    fusion_num_layers: int = 2
    fusion_num_heads: int | None = None
    fusion_intermediate_size: int | None = None
    fusion_direction: Literal["text_to_image", "image_to_text"] = "text_to_image"
    fusion_class_token: bool = True
    target_encoding: Literal["fusion", "clip"] = "fusion"
    logit_scale_init_value: float | int = 2.6592

    def __post_init__(self, **kwargs):
        self._set_up_encoders(kwargs)
        if self.fusion_hidden_size is None:
            self.fusion_hidden_size = self.text_config.hidden_size
        if self.fusion_num_heads is None:
            self.fusion_num_heads = self.text_config.num_attention_heads
        if self.fusion_intermediate_size is None:
            self.fusion_intermediate_size = 4 * self.fusion_hidden_size
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of the `@strict` validation: the sizes have to fit together."""
        if self.fusion_num_layers < 1:
            raise ValueError(f"`fusion_num_layers` must be at least 1, got {self.fusion_num_layers}.")
        if self.fusion_hidden_size % self.fusion_num_heads != 0:
            raise ValueError(
                f"`fusion_hidden_size` ({self.fusion_hidden_size}) must be a multiple of `fusion_num_heads` "
                f"({self.fusion_num_heads})."
            )
        self._check_empty_text()


__all__ = ["ContextCIRConfig"]
