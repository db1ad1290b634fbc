"""Configuration of InstructCIR: two CLIP encoders, of which one reads the other in every block, and the predictor.

Paper: Scaling Prompt Instructed Zero Shot Composed Image Retrieval with Image-Only Data (arXiv 2504.00812), section
II-B. The cross-attention has no sizes of its own: as wide as the image encoder and with as many heads (section IV-A).
The paper leaves the width of the predictor open; here it is that of its input.
"""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .clip_config import TwoEncoders


@strict
class InstructCIRConfig(TwoEncoders, PreTrainedConfig):
    r"""
    Args:
        vision_config (`CLIPVisionConfig` or `dict`, *optional*):
            The image encoder, whose every block gets a cross-attention to the text.
        text_config (`CLIPTextConfig` or `dict`, *optional*):
            The text encoder. Its width and that of the image encoder may differ.
        projection_dim (`int`, defaults to 512):
            Size of CLIP's common space, which is that of the embedding that is searched.
        cross_attention (`bool`, defaults to `True`):
            Whether the image encoder reads the text. Without, it is CLIP's, and image and text meet in the predictor
            alone (table V of the paper, "w/o CrossAtt.").
        predictor_text (`bool`, defaults to `True`):
            Whether the predictor reads the embedding of the text beside that of the image.
        predictor_hidden_size (`int`, *optional*):
            Width of the predictor; that of its input when left out.
        logit_scale_init_value (`float`, defaults to 2.6592):
            Logarithm of the inverse temperature at the start (CLIP's value).

    Raises:
        ValueError: for a field that does not exist (in the configs of the encoders: one that is almost the name of an
            existing one), and for values that do not fit together.

    Example:

    ```python
    >>> from modeling_contextcir import InstructCIRConfig, InstructCIRModel

    >>> model = InstructCIRModel(InstructCIRConfig(predictor_hidden_size=256))
    ```"""

    model_type = "instructcir"

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 512
    cross_attention: bool = True
    predictor_text: bool = True
    predictor_hidden_size: int | None = None
    logit_scale_init_value: float | int = 2.6592

    def __post_init__(self, **kwargs):
        self._set_up_encoders(kwargs)
        if self.predictor_hidden_size is None:
            self.predictor_hidden_size = self.predictor_input_size
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of the `@strict` validation: the values have to fit together."""
        if self.predictor_hidden_size < 1:
            raise ValueError(f"`predictor_hidden_size` must be at least 1, got {self.predictor_hidden_size}.")
        if not (self.cross_attention or self.predictor_text):
            raise ValueError("Nothing reads the text: leave `cross_attention`, `predictor_text` or both at `True`.")
        self._check_empty_text()

    @property
    def predictor_input_size(self) -> int:
        """What the predictor reads: the embedding of the image and, beside it, that of the text."""
        return self.projection_dim * (2 if self.predictor_text else 1)


__all__ = ["InstructCIRConfig"]
