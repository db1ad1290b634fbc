"""InstructCIR: a composed-image-retrieval model whose image encoder reads the modification text in every block.

Paper: Scaling Prompt Instructed Zero Shot Composed Image Retrieval with Image-Only Data (arXiv 2504.00812), section
II-B for the model, II-C for equations 1 to 3, IV-A for the initialisation. Another paper, arXiv 2412.05756, gives the
same name to another model. The target encoder, a moving average of this model, is part of the trainer.

The paper leaves the inside of the predictor open. Here it adds the output of an MLP on image and text to the image
embedding. At first it adds nothing, so that all embeddings are in CLIP's common space, where the sum with the text
embedding (equation 3) has a meaning. The cross-attention is random at first as in the paper (Xavier, not zero). So a
new image encoder differs from that of CLIP even with the null text.

Left out: dropout (the paper mentions none), and the reference image as a negative (equation 2 has target images only).
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .clip_model import (
    CIROutput,
    CLIPBasedModel,
    at_least_float32,
    attention_weights,
    check_rows,
    normalize,
    split_heads,
)
from .configuration_instructcir import InstructCIRConfig
from .text_passes import is_traced, run_in_passes


class InstructCIRBlock(GradientCheckpointingLayer):
    """One block of the image encoder: CLIP's self-attention, cross-attention to the text and CLIP's MLP, all pre-norm
    with a residual. CLIP's layer stays in `vision_model` and is passed to `forward`. This module holds the new weights
    only, so that they are not frozen or adapted with the encoders."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        vision_config = config.vision_config
        hidden_size, memory_size = vision_config.hidden_size, config.text_config.hidden_size
        self.config = config
        self.num_heads = vision_config.num_attention_heads
        self.norm = nn.LayerNorm(hidden_size, eps=vision_config.layer_norm_eps)
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(memory_size, hidden_size, bias=False)  # a constant would not change the softmax
        self.v_proj = nn.Linear(memory_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def _project_text(self, tokens):
        """`(num_texts, length, text_hidden_size)` -> keys and values, `(num_texts, num_heads, length, head_dim)`
        each. The text encoder layer-norms its tokens, so they get no norm here."""
        return split_heads(self.k_proj(tokens), self.num_heads), split_heads(self.v_proj(tokens), self.num_heads)

    def _attend(self, states, key, value, mask):
        query = split_heads(self.q_proj(states), self.num_heads)
        if self.config._attn_implementation == "eager":
            attended = attention_weights(query, key, mask).to(value.dtype) @ value
        else:
            key, value = (tensor.expand(query.shape[0], -1, -1, -1) for tensor in (key, value))
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def forward(self, states: Tensor, layer: Any, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Image tokens `(batch_size, num_tokens, hidden_size)`, CLIP's layer, tokens of one text or one for each image
        `(1 or batch_size, length, text_hidden_size)`, and a mask `(batch_size, 1, 1, length)`, false for padding ->
        image tokens."""
        key, value = self._project_text(tokens)
        states = states + layer.self_attn(layer.layer_norm1(states))[0]
        states = states + self._attend(self.norm(states), key, value, mask)
        return states + layer.mlp(layer.layer_norm2(states))


class InstructCIRPredictor(nn.Module):
    """`g`: the image embedding plus an MLP on the concatenation of image embedding and text embedding."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.reads_text = config.predictor_text
        self.fc1 = nn.Linear(config.predictor_input_size, config.predictor_hidden_size)
        self.activation = ACT2FN[config.vision_config.hidden_act]
        self.fc2 = nn.Linear(config.predictor_hidden_size, config.projection_dim)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """`(batch_size, projection_dim)` and `(batch_size or 1, projection_dim)` -> `(batch_size, projection_dim)`."""
        inputs = torch.cat([image, text.expand_as(image)], dim=-1) if self.reads_text else image
        return image + self.fc2(self.activation(self.fc1(inputs)))


class InstructCIRModel(CLIPBasedModel):
    r"""
    Composes a reference image and a modification text into a query, and embeds gallery images, in one space.

    `combiner_weight` is the lambda of equation 3. It is 1 and frozen while the rest of the model trains, so that a
    query is the reformulated embedding; a second stage tunes it alone.
    Used like [`ContextCIRModel`], with `InstructCIRProcessor`.
    """

    config_class = InstructCIRConfig
    base_model_prefix = "instructcir"
    _no_split_modules = [*CLIPBasedModel._no_split_modules, "InstructCIRBlock"]

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        num_blocks = config.vision_config.num_hidden_layers if config.cross_attention else 0
        self.blocks = nn.ModuleList([InstructCIRBlock(config) for _ in range(num_blocks)])
        self.predictor = InstructCIRPredictor(config)
        self.combiner_weight = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            if module is self.predictor.fc2:
                init.zeros_(module.weight)
            else:
                init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
            return
        super()._init_weights(module)
        if module is self:
            init.ones_(self.combiner_weight)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model, as [`CLIPBasedModel.from_pretrained`] does, with `combiner_weight` frozen."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        model.combiner_weight.requires_grad_(False)  # transformers enables all gradients
        return loaded

    def sharding_units(self) -> list[nn.Module]:
        # The blocks call the parts of CLIP's layers, not the layers.
        parts = [part for layer in self.vision_model.encoder.layers for part in (layer.self_attn, layer.mlp)]
        return [*parts, *self.blocks]

    def _encode_texts(self, input_ids, lengths):
        """`phi_t`: return token states `(num_texts, length, text_hidden_size)`, zero where padded, and embeddings
        `(num_texts, projection_dim)`. Texts of similar length share a pass."""

        def encode(index, longest):
            # CLIP's text encoder is causal and padding is on the right, so that real tokens never attend to padding.
            # Their states are the same without a mask, and attention is fastest.
            return self.text_model(input_ids[index, :longest]).last_hidden_state

        tokens = run_in_passes(encode, lengths, input_ids.shape[1])
        return tokens, self.text_projection(tokens[torch.arange(lengths.shape[0], device=lengths.device), lengths - 1])

    def _encode_images(self, pixel_values, text_tokens, text_mask=None):
        """`f`: embed images, `(batch_size, projection_dim)`, each with its own text or all with the same one."""
        vision = self.vision_model
        if not self.config.cross_attention:
            return self.visual_projection(vision(pixel_values).pooler_output)
        mask = None if text_mask is None else text_mask[:, None, None, :]
        states = vision.pre_layrnorm(vision.embeddings(pixel_values))  # (batch_size, 1 + num_patches, hidden_size)
        blocks: Iterable[Any] = self.blocks
        for block, layer in zip(blocks, vision.encoder.layers, strict=True):
            states = block(states, layer, text_tokens, mask)
        return self.visual_projection(vision.post_layernorm(states[:, 0]))

    def _embed_queries(self, pixel_values, input_ids, attention_mask):
        """Embed queries, `e_f = lambda * e_r + (1 - lambda) * phi_t(t)`."""
        text_mask = self._text_mask(input_ids, attention_mask)
        text_tokens, text = self._encode_texts(input_ids, text_mask.sum(dim=1).clamp(min=1))
        reformulated = self.predictor(self._encode_images(pixel_values, text_tokens, text_mask), text)
        # Both of unit length, so that lambda has the same weight in every query.
        reformulated, text = normalize(reformulated), normalize(text)
        weight = at_least_float32(self.combiner_weight)
        return normalize(weight * reformulated + (1 - weight) * text)

    def _embed_images(self, pixel_values):
        """Embed gallery images, `e_t`: all with the null text, which is encoded once."""
        empty_text = torch.tensor([self.config.empty_text_ids], device=pixel_values.device)
        text_tokens, text = self._encode_texts(empty_text, torch.tensor([2], device=pixel_values.device))
        return normalize(self.predictor(self._encode_images(pixel_values, text_tokens), text))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        reference_index: Tensor | None = None,
        target_index: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> CIROutput | BaseModelOutputWithPooling:
        r"""
        Run one training step: all embeddings that the loss needs. A target image of several rows is encoded once.
        Arguments and errors as for [`ContextCIRModel.forward`]. The output has no `reference_embeds`.
        """
        if input_ids is None:
            return self._images_alone(pixel_values, reference_index=reference_index, target_index=target_index)
        if pixel_values is None or reference_index is None:
            raise ValueError(
                "Give `pixel_values`, and with `reference_index` the place of each text's reference image."
            )
        check_rows(
            input_ids, reference_index=reference_index, target_index=target_index, attention_mask=attention_mask
        )
        target_embeds = None
        if target_index is not None and is_traced():  # which rows share an image cannot be part of a graph
            target_embeds = self._embed_images(pixel_values[target_index])
        elif target_index is not None:
            places, place_of_row = target_index.unique(return_inverse=True)
            target_embeds = self._embed_images(pixel_values[places])[place_of_row]
        return CIROutput(
            query_embeds=self._embed_queries(pixel_values[reference_index], input_ids, attention_mask),
            target_embeds=target_embeds,
            logit_scale=self._bounded_logit_scale(),
        )
