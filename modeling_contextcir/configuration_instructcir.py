"""Configuration of InstructCIR: two CLIP encoders, cross-attention from each image block to the text, and a predictor.

Paper: Scaling Prompt Instructed Zero Shot Composed Image Retrieval with Image-Only Data (arXiv 2504.00812), section
II-B. The cross-attention has the width and the heads of the image encoder (section IV-A), so it has no fields here.
The paper leaves the width of the predictor open; the default is the width of its input.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .clip_config import TwoEncoders


@strict
class InstructCIRConfig(TwoEncoders, PreTrainedConfig):
    r"""
    Arguments and errors as for [`TwoEncoders`], and:

    Args:
        cross_attention (`bool`, defaults to `True`):
            Whether the image encoder reads the text. If not, it is that of CLIP, and image and text meet in the
            predictor only (table V of the paper, "w/o CrossAtt.").
        predictor_text (`bool`, defaults to `True`):
            Whether the predictor reads the embedding of the text beside that of the image.
        predictor_hidden_size (`int`, *optional*): Width of the predictor; by default that of its input.

    Raises:
        ValueError: `predictor_hidden_size` is below 1, or nothing reads the text.
    """

    model_type = "instructcir"

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 512
    cross_attention: bool = True
    predictor_text: bool = True
    predictor_hidden_size: int | None = None
    logit_scale_init_value: float | int = 2.6592
    begin_end_token_ids: list[int] | None = None
    matryoshka_dims: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.predictor_hidden_size is None:
            self.predictor_hidden_size = self.predictor_input_size

    def validate_architecture(self) -> None:
        """Check that the values fit together, as part of the `@strict` validation."""
        size: Any = self.predictor_hidden_size  # no longer `None`
        if size < 1:
            raise ValueError(f"`predictor_hidden_size` must be at least 1, got {size}.")
        if not (self.cross_attention or self.predictor_text):
            raise ValueError("Nothing reads the text: set `cross_attention`, `predictor_text` or both to `True`.")
        self._check_empty_text()

    @property
    def predictor_input_size(self) -> int:
        """Width of the predictor's input: an image embedding and, if it reads the text, a text embedding."""
        return self.projection_dim * (2 if self.predictor_text else 1)
