"""Fusion of text and image in ConText-CIR: cross-attention `phi_A` and attention pooling `phi_P`.

Paper: ConText-CIR (CVPR 2025), section 3.2. Left out: self-attention (the text encoder has done it) and dropout (the
paper mentions none). Without self-attention the rows do not interact, and in the default direction image tokens are
never updated. So the keys and values of an image are computed once, for the whole text, the isolated noun phrases and
the empty text.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .clip_model import attention_weights, split_heads


class ContextCIRAttention(nn.Module):
    """Multi-head attention of rows (queries) on a memory (keys and values), which is projected apart for reuse."""

    def __init__(self, config: PreTrainedConfig, memory_size: int):
        super().__init__()
        hidden_size = config.fusion_hidden_size
        self.config = config
        self.num_heads = config.fusion_num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(memory_size, hidden_size, bias=False)  # a constant would not change the softmax
        self.v_proj = nn.Linear(memory_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """`(batch_size, length, memory_size)` -> keys and values, `(batch_size, num_heads, length, head_dim)` each."""
        return split_heads(self.k_proj(memory), self.num_heads), split_heads(self.v_proj(memory), self.num_heads)

    def weights(self, rows: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return float32 attention weights, `(batch_size, num_heads, num_rows, memory_length)`."""
        return attention_weights(split_heads(self.q_proj(rows), self.num_heads), key, mask)

    def forward(
        self, rows: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        attentions = None
        if output_attentions or self.config._attn_implementation == "eager":
            weights = self.weights(rows, key, mask)
            attended = weights.to(value.dtype) @ value
            if output_attentions:
                attentions = weights.mean(dim=1)
        else:
            query = split_heads(self.q_proj(rows), self.num_heads)
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), attentions


class ContextCIRLayer(GradientCheckpointingLayer):
    """Pre-norm decoder block without self-attention: cross-attention and feed-forward, each with a residual."""

    def __init__(self, config: PreTrainedConfig, memory_size: int):
        super().__init__()
        hidden_size, eps = config.fusion_hidden_size, config.text_config.layer_norm_eps
        self.norm1 = nn.LayerNorm(hidden_size, eps=eps)
        self.attention = ContextCIRAttention(config, memory_size)
        self.norm2 = nn.LayerNorm(hidden_size, eps=eps)
        self.fc1 = nn.Linear(hidden_size, config.fusion_intermediate_size)
        self.activation = ACT2FN[config.text_config.hidden_act]
        self.fc2 = nn.Linear(config.fusion_intermediate_size, hidden_size)

    def forward(
        self, rows: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        attended, attentions = self.attention(self.norm1(rows), key, value, mask, output_attentions)
        rows = rows + attended
        rows = rows + self.fc2(self.activation(self.fc1(self.norm2(rows))))
        return rows, attentions


class PreparedImages(NamedTuple):
    """What of some images does not depend on a text. The first dimension of all tensors is the image."""

    fused: Any  # keys and values of each layer, or, with image tokens as queries, rows
    pooled: Tensor | None  # further rows for the pooling


class ContextCIRFusion(nn.Module):
    """`phi_A`: cross-attention between the tokens of an image and of a text, in either direction. The encoders
    layer-norm both kinds of tokens, so the memory gets no norm here."""

    layers: Any  # `nn.ModuleList` of `ContextCIRLayer`

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.text_queries = config.fusion_direction == "text_to_image"
        self.class_token = config.fusion_class_token
        row_size, memory_size = config.text_config.hidden_size, config.vision_config.hidden_size
        if not self.text_queries:
            row_size, memory_size = memory_size, row_size
        same_size = row_size == config.fusion_hidden_size
        self.input_projection = nn.Identity() if same_size else nn.Linear(row_size, config.fusion_hidden_size)
        self.layers = nn.ModuleList([ContextCIRLayer(config, memory_size) for _ in range(config.fusion_num_layers)])
        image_size = config.vision_config.hidden_size
        self.image_projection = nn.Linear(image_size, config.fusion_hidden_size) if config.pool_image_tokens else None

    def _project_memory(self, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [layer.attention.project_memory(tokens) for layer in self.layers]

    def prepare_images(self, image_tokens: Tensor) -> PreparedImages:
        """Compute what depends on the image only."""
        image_tokens = image_tokens if self.class_token else image_tokens[:, 1:]
        fused = self._project_memory(image_tokens) if self.text_queries else self.input_projection(image_tokens)
        return PreparedImages(fused, None if self.image_projection is None else self.image_projection(image_tokens))

    def select_images(self, prepared: PreparedImages, index: Tensor) -> PreparedImages:
        """Return the prepared images at the places `index`."""
        fused: Any
        if self.text_queries:
            fused = [(key.index_select(0, index), value.index_select(0, index)) for key, value in prepared.fused]
        else:
            fused = prepared.fused.index_select(0, index)
        return PreparedImages(fused, None if prepared.pooled is None else prepared.pooled.index_select(0, index))

    def forward(
        self,
        prepared: PreparedImages,
        text_tokens: Tensor,
        text_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_rows: bool = True,
    ) -> tuple[Any, Any]:
        """
        Fuse images, from `prepare_images`, with one text each: `text_tokens` `(batch_size, text_length,
        text_hidden_size)` and `text_mask` `(batch_size, text_length)`, false for padding.

        Returns:
            Rows `(batch_size, num_rows, fusion_hidden_size)` and float32 attention weights
            `(batch_size, text_length, num_image_tokens)`, the mean of layers and heads: for each text token a
            distribution over image tokens or, with image tokens as queries, for each image token a distribution over
            text tokens. `None` for what is not requested.
        """
        if self.text_queries:
            # The row of a padded text token is never read, and image tokens have no padding: no mask is needed.
            rows, memories, mask = self.input_projection(text_tokens), prepared.fused, None
        else:
            rows, memories = prepared.fused, self._project_memory(text_tokens)
            mask = None if text_mask is None else text_mask[:, None, None, :]
        total: Any = 0.0
        for layer, (key, value) in zip(self.layers, memories, strict=True):
            if layer is self.layers[-1] and not output_rows:
                rows, attentions = None, layer.attention.weights(layer.norm1(rows), key, mask).mean(dim=1)
            else:
                rows, attentions = layer(rows, key, value, mask, output_attentions)
            if output_attentions:
                total = total + attentions / len(self.layers)
        if not output_attentions:
            return rows, None
        return rows, total if self.text_queries else total.transpose(1, 2)


class ContextCIRPooler(nn.Module):
    """`phi_P`: pooling by multi-head attention (Set Transformer, section 3.2) with one learned seed, as a pre-norm
    block."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.seed = nn.Parameter(torch.zeros(1, 1, config.fusion_hidden_size))
        self.norm = nn.LayerNorm(config.fusion_hidden_size, eps=config.text_config.layer_norm_eps)
        self.layer = ContextCIRLayer(config, config.fusion_hidden_size)

    def forward(self, rows: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(batch_size, num_rows, hidden_size)` and a mask `(batch_size, num_rows)` -> `(batch_size, hidden_size)`."""
        key, value = self.layer.attention.project_memory(self.norm(rows))
        mask = None if mask is None else mask[:, None, None, :]
        pooled, _ = self.layer(self.seed.expand(rows.shape[0], -1, -1), key, value, mask)
        return pooled[:, 0]
