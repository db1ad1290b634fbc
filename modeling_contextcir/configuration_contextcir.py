"""Configuration of ConText-CIR: two CLIP encoders and the shape of the fusion on top of them.

Paper: ConText-CIR (CVPR 2025), section 3.2. The paper leaves the widths, the number of fusion layers and the direction
of the cross-attention open; the defaults here follow the text encoder.
"""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .clip_config import ImageFit, TwoEncoders


@strict
class ContextCIRConfig(TwoEncoders, PreTrainedConfig):
    r"""
    Arguments and errors as for [`TwoEncoders`], and:

    Args:
        fusion_hidden_size (`int`, *optional*): Width of the fusion layers; by default that of the text encoder.
        fusion_num_layers (`int`, defaults to 2): Number of cross-attention blocks.
        fusion_num_heads (`int`, *optional*): Attention heads of the fusion; by default those of the text encoder.
        fusion_intermediate_size (`int`, *optional*):
            Width of the feed-forward layers; by default four times `fusion_hidden_size`.
        fusion_direction (`str`, defaults to `"text_to_image"`):
            `"text_to_image"`: text tokens are the queries, image tokens the keys and values, so that the attention of
            a token is a distribution over the image. `"image_to_text"`: image tokens are the queries. A step takes 1.5
            to 2 times as long. Where training shows phrases what they name (`grounding_weight`), this direction is the
            one that found more on scenes, in short trainings.
        fusion_class_token (`bool`, defaults to `True`):
            Whether the fusion reads the class token of the image beside its patches. Attention to it has no place in
            the image, and is left out of the maps of noun phrases.
        pool_image_tokens (`bool`, defaults to `False`):
            Whether the pooling reads the tokens of the image itself, projected, beside the rows of the fusion. With
            it, what a query keeps of its image need not pass through the attention of its text.
        target_encoding (`str`, defaults to `"fusion"`):
            How gallery images and query-image negatives are embedded. `"fusion"`: `f(I, "")`, the image fused with the
            empty text, as in the paper (section 3.4). `"clip"`: the plain projection of CLIP's image encoder.

    Raises:
        ValueError: Sizes do not fit together.
    """

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
    pool_image_tokens: bool = False
    target_encoding: Literal["fusion", "clip"] = "fusion"
    logit_scale_init_value: float | int = 2.6592
    image_fit: ImageFit = "crop"
    begin_end_token_ids: list[int] | None = None
    matryoshka_dims: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        text_config: Any = self.text_config  # no longer a dictionary
        if self.fusion_hidden_size is None:
            self.fusion_hidden_size = text_config.hidden_size
        if self.fusion_num_heads is None:
            self.fusion_num_heads = text_config.num_attention_heads
        if self.fusion_intermediate_size is None:
            self.fusion_intermediate_size = 4 * self.fusion_hidden_size

    def validate_architecture(self) -> None:
        """Check that the sizes fit together, as part of the `@strict` validation."""
        if self.fusion_num_layers < 1:
            raise ValueError(f"`fusion_num_layers` must be at least 1, got {self.fusion_num_layers}.")
        size: Any = self.fusion_hidden_size  # no longer `None`
        if size % self.fusion_num_heads != 0:
            raise ValueError(
                f"`fusion_hidden_size` ({size}) must be a multiple of `fusion_num_heads` ({self.fusion_num_heads})."
            )
        self._check_empty_text()
