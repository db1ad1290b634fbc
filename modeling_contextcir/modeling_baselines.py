"""Late-fusion baselines: a query is computed from one vector of the image and one of the text.

`combiner`: CLIP4Cir (Baldrati et al., CVPR workshops 2022), a convex mix of both features plus a learned mixture of
them. `tirg`: TIRG (Vo et al., CVPR 2019), the gated image feature plus a residual, both made from image and text. Both
read CLIP's pooled and projected features, and gallery images are plain CLIP images. Left out: dropout and batch
normalisation, so that a training step differs from ConText-CIR in the fusion only; TIRG's convolutional form.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from .clip_config import TwoEncoders
from .clip_model import CIROutput, CLIPBasedModel, check_rows, normalize


@strict
class CompositionBaselineConfig(TwoEncoders, PreTrainedConfig):
    r"""
    Arguments and errors as for [`TwoEncoders`], and:

    Args:
        composition (`"combiner"` or `"tirg"`): How image and text are combined.
        composer_hidden_size (`int`, *optional*): Width of the hidden layers; by default twice `projection_dim`.
    """

    model_type = "cir_baseline"

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    composition: Literal["combiner", "tirg"] = "combiner"
    projection_dim: int = 512
    composer_hidden_size: int | None = None
    logit_scale_init_value: float | int = 2.6592
    begin_end_token_ids: list[int] | None = None
    matryoshka_dims: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.composer_hidden_size is None:
            self.composer_hidden_size = 2 * self.projection_dim


class Combiner(nn.Module):
    """CLIP4Cir, figure 3: `lambda * text + (1 - lambda) * image + mixture`; lambda and the mixture are learned."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        size, hidden_size = config.projection_dim, config.composer_hidden_size
        self.image = nn.Linear(size, hidden_size)
        self.text = nn.Linear(size, hidden_size)
        self.mixture = nn.Sequential(nn.Linear(2 * hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, size))
        self.weight = nn.Sequential(nn.Linear(2 * hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 1))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Two `(batch_size, projection_dim)` -> `(batch_size, projection_dim)`."""
        both = F.relu(torch.cat([self.image(image), self.text(text)], dim=-1))  # (batch_size, 2 * hidden_size)
        weight = self.weight(both).sigmoid()  # (batch_size, 1)
        return weight * text + (1 - weight) * image + self.mixture(both)


class Gate(nn.Module):
    """TIRG, equations 1 to 3: the gated image feature plus a residual."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        size, hidden_size = config.projection_dim, config.composer_hidden_size
        self.gate = nn.Sequential(nn.Linear(2 * size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, size))
        self.residual = nn.Sequential(nn.Linear(2 * size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, size))
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Two `(batch_size, projection_dim)` -> `(batch_size, projection_dim)`."""
        both = torch.cat([image, text], dim=-1)
        return self.weights[0] * self.gate(both).sigmoid() * image + self.weights[1] * self.residual(both)


class CompositionBaseline(CLIPBasedModel):
    """A composer on pooled CLIP features, trained and measured like [`ContextCIRModel`], without attention maps."""

    config_class = CompositionBaselineConfig
    base_model_prefix = "cir_baseline"

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.composer = {"combiner": Combiner, "tirg": Gate}[config.composition](config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Gate):
            init.copy_(module.weights, torch.tensor([1.0, 0.1]))  # at first the image, plus a little of the residual

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Return CLIP's pooled image features before their projection, `(batch_size, vision_hidden_size)`. With a
        frozen image encoder, training may start from these: `forward(encoded_images=)`."""
        return self.vision_model(pixel_values).pooler_output

    def _project_images(self, encoded_images):
        return normalize(self.visual_projection(encoded_images))

    def _compose(self, image_features, input_ids, attention_mask):
        pooled = self._pooled_texts(input_ids, attention_mask)
        text_features, dtype = normalize(self.text_projection(pooled)), self.text_projection.weight.dtype
        return normalize(self.composer(image_features.to(dtype), text_features.to(dtype)))

    def _embed_images(self, pixel_values):
        return self._project_images(self.encode_images(pixel_values))

    def _embed_queries(self, pixel_values, input_ids, attention_mask):
        return self._compose(self._embed_images(pixel_values), input_ids, attention_mask)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        reference_index: Tensor | None = None,
        target_index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoded_images: Tensor | None = None,
    ) -> CIROutput:
        r"""
        Run one training step over the distinct images of the batch. Arguments and errors as for
        [`ContextCIRModel.forward`], without noun phrases; `encoded_images` are `(num_images, vision_hidden_size)`.
        """
        if reference_index is None:
            raise ValueError("`reference_index` is missing. Give the place of each text's reference image.")
        check_rows(
            input_ids, reference_index=reference_index, target_index=target_index, attention_mask=attention_mask
        )
        images = self._project_images(self._encode_batch(pixel_values, encoded_images))
        return CIROutput(
            query_embeds=self._compose(images[reference_index], input_ids, attention_mask),
            target_embeds=None if target_index is None else images[target_index],
            reference_embeds=images[reference_index],
            logit_scale=self._bounded_logit_scale(),
        )
