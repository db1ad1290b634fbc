"""Late fusion to compare with: what a query is, computed from one vector of the image and one of the text.

`combiner`: CLIP4Cir (Baldrati et al., CVPR workshops 2022), a convex mix of both features plus a learned mixture of
them. `tirg`: TIRG (Vo et al., CVPR 2019), the image feature behind a gate plus a residual, both made from image and
text. Both read CLIP's pooled and projected features, and gallery images are plain CLIP images. Left out: dropout and
batch normalisation, so that a step of these is a step of ConText-CIR but for the fusion; TIRG's convolutional form.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import CLIPTextModel, CLIPVisionModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .clip_config import TwoEncoders
from .clip_model import AroundCLIP, normalize


@strict
class CompositionBaselineConfig(TwoEncoders, PreTrainedConfig):
    r"""
    Args:
        vision_config (`CLIPVisionConfig` or `dict`, *optional*): The image encoder.
        text_config (`CLIPTextConfig` or `dict`, *optional*): The text encoder.
        composition (`"combiner"` or `"tirg"`): How a query is made of its two halves.
        projection_dim (`int`, defaults to 512): Size of the embedding that is searched.
        composer_hidden_size (`int`, *optional*): Width of the hidden layers; twice `projection_dim` when left out.
        logit_scale_init_value (`float`, defaults to 2.6592): Logarithm of the inverse temperature at the start.
    """

    model_type = "cir_baseline"

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    composition: Literal["combiner", "tirg"] = "combiner"
    projection_dim: int = 512
    composer_hidden_size: int | None = None
    logit_scale_init_value: float | int = 2.6592

    def __post_init__(self, **kwargs):
        self._set_up_encoders(kwargs)
        if self.composer_hidden_size is None:
            self.composer_hidden_size = 2 * self.projection_dim
        super().__post_init__(**kwargs)


@dataclass
class CompositionBaselineOutput(ModelOutput):
    r"""
    Args:
        query_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`): L2-normalised float32, as all here.
        target_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`): Target images.
        reference_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`): Reference images.
        logit_scale (`torch.FloatTensor`, 0-dim): Inverse temperature, at most 100.
    """

    query_embeds: torch.FloatTensor | None = None
    target_embeds: torch.FloatTensor | None = None
    reference_embeds: torch.FloatTensor | None = None
    logit_scale: torch.FloatTensor | None = None


class Combiner(nn.Module):
    """CLIP4Cir, figure 3: `lambda * text + (1 - lambda) * image + mixture`, the last two learned from both."""

    def __init__(self, config: CompositionBaselineConfig):
        super().__init__()
        size, hidden_size = config.projection_dim, config.composer_hidden_size
        self.image = nn.Linear(size, hidden_size)
        self.text = nn.Linear(size, hidden_size)
        self.mixture = nn.Sequential(nn.Linear(2 * hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, size))
        self.weight = nn.Sequential(nn.Linear(2 * hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 1))

    def forward(self, image, text):
        """Two `(batch_size, projection_dim)` -> `(batch_size, projection_dim)`."""
        both = F.relu(torch.cat([self.image(image), self.text(text)], dim=-1))  # (batch_size, 2 * hidden_size)
        weight = self.weight(both).sigmoid()  # (batch_size, 1)
        return weight * text + (1 - weight) * image + self.mixture(both)


class Gate(nn.Module):
    """TIRG, equations 1 to 3: the image feature behind a gate, and a residual."""

    def __init__(self, config: CompositionBaselineConfig):
        super().__init__()
        size, hidden_size = config.projection_dim, config.composer_hidden_size
        self.gate = nn.Sequential(nn.Linear(2 * size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, size))
        self.residual = nn.Sequential(nn.Linear(2 * size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, size))
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, image, text):
        """Two `(batch_size, projection_dim)` -> `(batch_size, projection_dim)`."""
        both = torch.cat([image, text], dim=-1)
        return self.weights[0] * self.gate(both).sigmoid() * image + self.weights[1] * self.residual(both)


class CompositionBaseline(AroundCLIP, PreTrainedModel):
    r"""
    A composer on pooled CLIP features, trained and measured through the same doors as [`ContextCIRModel`], without
    noun phrases: it has no attention to be consistent.
    """

    config_class = CompositionBaselineConfig
    base_model_prefix = "cir_baseline"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings"]

    def __init__(self, config: CompositionBaselineConfig):
        super().__init__(config)
        self.text_model = CLIPTextModel._from_config(config.text_config)
        self.vision_model = CLIPVisionModel._from_config(config.vision_config)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.composer = {"combiner": Combiner, "tirg": Gate}[config.composition](config)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Gate):
            init.copy_(module.weights, torch.tensor([1.0, 0.1]))  # at first the image, with a little of the residual
        elif isinstance(module, CompositionBaseline):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)

    def encode_images(self, pixel_values) -> torch.FloatTensor:
        """CLIP's pooled image features before their projection, `(batch_size, vision_hidden_size)`. Where the image
        encoder rests, training may begin here, with `forward(encoded_images=...)`."""
        return self.vision_model(pixel_values).pooler_output

    def _project_images(self, encoded_images):
        return normalize(self.visual_projection(encoded_images))

    def _compose(self, image_features, input_ids, attention_mask):
        text = self.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return normalize(self.composer(image_features, normalize(self.text_projection(text))))

    def get_image_features(self, pixel_values) -> torch.FloatTensor:
        """Images `(batch_size, 3, height, width)` -> `(batch_size, projection_dim)`, L2-normalised."""
        return self._project_images(self.encode_images(pixel_values))

    def get_query_features(self, pixel_values, input_ids, attention_mask=None) -> torch.FloatTensor:
        """Reference images `(batch_size, 3, height, width)` and texts `(batch_size, length)` -> `(batch_size,
        projection_dim)`, L2-normalised."""
        return self._compose(self.get_image_features(pixel_values), input_ids, attention_mask)

    def forward(
        self,
        input_ids,
        pixel_values=None,
        reference_index=None,
        target_index=None,
        attention_mask=None,
        encoded_images=None,
    ) -> CompositionBaselineOutput:
        r"""
        One training step over the distinct images of the batch.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): Modification texts.
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, height, width)`, *optional*): Images, each
                once.
            reference_index (`torch.LongTensor` of shape `(batch_size,)`): Which of them is the reference of each text.
            target_index (`torch.LongTensor` of shape `(batch_size,)`, *optional*): Which of them is its target;
                without, no targets are returned.
            attention_mask (`torch.LongTensor` of shape `(batch_size, length)`, *optional*): 1 for real tokens.
            encoded_images (`torch.FloatTensor` of shape `(num_images, vision_hidden_size)`, *optional*): What
                `encode_images` makes of `pixel_values`, in their place.

        Returns:
            [`CompositionBaselineOutput`]
        """
        if (pixel_values is None) == (encoded_images is None) or reference_index is None:
            raise ValueError("Give `pixel_values` or `encoded_images`, and `reference_index` into them.")
        images = self._project_images(self.encode_images(pixel_values) if encoded_images is None else encoded_images)
        return CompositionBaselineOutput(
            query_embeds=self._compose(images[reference_index], input_ids, attention_mask),
            target_embeds=None if target_index is None else images[target_index],
            reference_embeds=images[reference_index],
            logit_scale=self._bounded_logit_scale(),
        )


__all__ = ["CompositionBaseline", "CompositionBaselineConfig", "CompositionBaselineOutput"]
