"""InstructCIR: a composed-image-retrieval model whose image encoder reads the modification text in every block.

Paper: Scaling Prompt Instructed Zero Shot Composed Image Retrieval with Image-Only Data (arXiv 2504.00812), section
II-B for the model, II-C for equations 1 to 3, IV-A for the initialisation. Another paper, arXiv 2412.05756, gives the
same name to another model. The target encoder, a moving average of this model, is the trainer's business.

The paper leaves the inside of the predictor open. Here it adds to the image embedding what its MLP makes of image and
text, nothing at first, so that all embeddings live in CLIP's common space, where alone adding the text embedding
(equation 3) means something. The cross-attention begins at random as in the paper (Xavier, not zero), so that even
under the null text the first steps find an image encoder that is not CLIP's.

Left out: dropout (the paper mentions none), and the reference image as a negative (equation 2 has target images only).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextModel, CLIPVisionModel, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from .clip_model import AroundCLIP, normalize, split_into_passes
from .configuration_instructcir import InstructCIRConfig


@dataclass
class InstructCIROutput(ModelOutput):
    r"""
    Args:
        query_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`):
            `e_f` of the reference images and texts, L2-normalised float32, as all embeddings here.
        target_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`, *optional*):
            `e_t`, the target images as gallery images, unless another encoder makes them.
        logit_scale (`torch.FloatTensor`, 0-dim):
            Inverse temperature, at most 100.
    """

    query_embeds: torch.FloatTensor | None = None
    target_embeds: torch.FloatTensor | None = None
    logit_scale: torch.FloatTensor | None = None


class InstructCIRBlock(GradientCheckpointingLayer):
    """
    One block of the image encoder: CLIP's self-attention, cross-attention to the text, CLIP's MLP, each with a
    layer norm before it and a residual.

    The layer of CLIP stays where it is, in `vision_model`, and is lent to `forward`: this module holds the new weights
    alone, so that what freezes or adapts the encoders does not touch them.
    """

    def __init__(self, config: InstructCIRConfig):
        super().__init__()
        vision_config = config.vision_config
        hidden_size, memory_size = vision_config.hidden_size, config.text_config.hidden_size
        self.config = config
        self.num_heads = vision_config.num_attention_heads
        self.norm = nn.LayerNorm(hidden_size, eps=vision_config.layer_norm_eps)
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(memory_size, hidden_size, bias=False)  # softmax does not see a constant
        self.v_proj = nn.Linear(memory_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def _split_heads(self, states):
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (batch_size, num_heads, length, head_dim)

    def project_text(self, tokens):
        """`(num_texts, length, text_hidden_size)` -> keys and values, `(num_texts, num_heads, length, head_dim)`
        each. The text encoder has normed its tokens, hence no norm here."""
        return self._split_heads(self.k_proj(tokens)), self._split_heads(self.v_proj(tokens))

    def _attend(self, states, key, value, mask):
        query = self._split_heads(self.q_proj(states))
        if self.config._attn_implementation == "eager":
            scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            attended = scores.softmax(dim=-1).to(value.dtype) @ value
        else:
            key, value = (tensor.expand(len(query), -1, -1, -1) for tensor in (key, value))
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def forward(self, states, layer, key, value, mask=None):
        r"""
        Args:
            states (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`): image tokens.
            layer (`CLIPEncoderLayer`): CLIP's layer in this place.
            key (`torch.FloatTensor` of shape `(batch_size or 1, num_heads, length, head_dim)`): from `project_text`.
            value (`torch.FloatTensor`): likewise; one text may serve all images.
            mask (`torch.BoolTensor` of shape `(batch_size, 1, 1, length)`, *optional*): false for padding.
        """
        states = states + layer.self_attn(layer.layer_norm1(states))[0]
        states = states + self._attend(self.norm(states), key, value, mask)
        return states + layer.mlp(layer.layer_norm2(states))


class InstructCIRPredictor(nn.Module):
    """`g`: an MLP on the concatenation of an image embedding and a text embedding, added to the former."""

    def __init__(self, config: InstructCIRConfig):
        super().__init__()
        self.reads_text = config.predictor_text
        self.fc1 = nn.Linear(config.predictor_input_size, config.predictor_hidden_size)
        self.activation = ACT2FN[config.vision_config.hidden_act]
        self.fc2 = nn.Linear(config.predictor_hidden_size, config.projection_dim)

    def forward(self, image, text):
        """`(batch_size, projection_dim)` and `(batch_size or 1, projection_dim)` -> `(batch_size, projection_dim)`."""
        inputs = torch.cat([image, text.expand_as(image)], dim=-1) if self.reads_text else image
        return image + self.fc2(self.activation(self.fc1(inputs)))


class InstructCIRPreTrainedModel(AroundCLIP, PreTrainedModel):
    """Initialisation of the new layers, and loading that refuses incomplete or broken weights."""

    config_class = InstructCIRConfig
    base_model_prefix = "instructcir"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings", "InstructCIRBlock"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            if module is self.predictor.fc2:
                init.zeros_(module.weight)
            else:
                init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, InstructCIRModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            init.ones_(module.combiner_weight)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, output_loading_info=False, **kwargs):
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        model.combiner_weight.requires_grad_(False)  # loading gives a gradient to all
        return (model, info) if output_loading_info else model


class InstructCIRModel(InstructCIRPreTrainedModel):
    r"""
    Composes a reference image and a modification text into a query, and embeds gallery images, in one space.

    Encoders and projections bear the names that they have in `CLIPModel`, so that any CLIP checkpoint loads straight
    in. `combiner_weight` is the lambda of equation 3: 1 and at rest while all else trains, so that a query is the
    reformulated embedding alone; a second stage tunes it and nothing else.

    Example:

    ```python
    >>> from modeling_contextcir import InstructCIRModel, InstructCIRProcessor

    >>> model = InstructCIRModel.from_clip_pretrained("openai/clip-vit-large-patch14")
    >>> processor = InstructCIRProcessor.from_pretrained("openai/clip-vit-large-patch14")
    >>> inputs = processor(images=[image], text=["is strapless and more colorful"])
    >>> query = model.get_query_features(**inputs)
    >>> scores = query @ model.get_image_features(gallery_pixel_values).T  # (1, gallery_size)
    ```"""

    def __init__(self, config: InstructCIRConfig):
        super().__init__(config)
        self.text_model = CLIPTextModel._from_config(config.text_config)
        self.vision_model = CLIPVisionModel._from_config(config.vision_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        num_blocks = config.vision_config.num_hidden_layers if config.cross_attention else 0
        self.blocks = nn.ModuleList([InstructCIRBlock(config) for _ in range(num_blocks)])
        self.predictor = InstructCIRPredictor(config)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.combiner_weight = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.post_init()

    def _encode_texts(self, input_ids, lengths):
        """`phi_t`: token states `(num_texts, length, text_hidden_size)`, zero where padded, and embeddings
        `(num_texts, projection_dim)`; texts of similar length share a pass."""
        # CLIP's text encoder is causal and padding stands on the right, so that no real token ever sees it: without a
        # mask the states of real tokens are the same, and attention takes its fastest path.
        tokens = None
        for index, longest in split_into_passes(lengths):
            states = self.text_model(input_ids[index, :longest]).last_hidden_state
            tokens = states.new_zeros(*input_ids.shape, states.shape[-1]) if tokens is None else tokens
            tokens[index, :longest] = states
        return tokens, self.text_projection(tokens[torch.arange(len(lengths), device=lengths.device), lengths - 1])

    def _encode_images(self, pixel_values, text_tokens, text_mask=None):
        """`f`: embeddings of images, `(batch_size, projection_dim)`, each under its text or all under the same."""
        vision = self.vision_model
        if not self.config.cross_attention:
            return self.visual_projection(vision(pixel_values).pooler_output)
        mask = None if text_mask is None else text_mask[:, None, None, :]
        states = vision.pre_layrnorm(vision.embeddings(pixel_values))  # (batch_size, 1 + num_patches, hidden_size)
        for block, layer in zip(self.blocks, vision.encoder.layers, strict=True):
            states = block(states, layer, *block.project_text(text_tokens), mask)
        return self.visual_projection(vision.post_layernorm(states[:, 0]))

    def _embed_queries(self, pixel_values, input_ids, attention_mask):
        text_mask = self._text_mask(input_ids, attention_mask)
        text_tokens, text = self._encode_texts(input_ids, text_mask.sum(dim=1).clamp(min=1))
        reformulated = self.predictor(self._encode_images(pixel_values, text_tokens, text_mask), text)
        # Of unit length both, so that lambda weighs the same in every query.
        reformulated, text = normalize(reformulated), normalize(text)
        weight = self.combiner_weight.float()
        return normalize(weight * reformulated + (1 - weight) * text)

    def _embed_images(self, pixel_values):
        empty_text = torch.tensor([self.config.empty_text_ids], device=pixel_values.device)
        text_tokens, text = self._encode_texts(empty_text, torch.tensor([2], device=pixel_values.device))
        return normalize(self.predictor(self._encode_images(pixel_values, text_tokens), text))

    def forward(
        self,
        input_ids: torch.LongTensor,
        pixel_values: torch.FloatTensor,
        reference_index: torch.LongTensor,
        target_index: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
    ) -> InstructCIROutput:
        r"""
        One training step: all embeddings that the loss needs. A target image that several rows share is encoded once.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): modification texts, padded on the right.
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, height, width)`): images, each once.
            reference_index (`torch.LongTensor` of shape `(batch_size,)`): which of them is the reference of each text.
            target_index (`torch.LongTensor` of shape `(batch_size,)`, *optional*): which of them is its target.
                Without, no target is encoded.
            attention_mask (`torch.LongTensor` of shape `(batch_size, length)`, *optional*):
                1 for real tokens; without it a text ends with its first end token.

        Returns:
            [`InstructCIROutput`]
        """
        target_embeds = None
        if target_index is not None:
            places, place_of_row = target_index.unique(return_inverse=True)
            target_embeds = self._embed_images(pixel_values[places])[place_of_row]
        return InstructCIROutput(
            query_embeds=self._embed_queries(pixel_values[reference_index], input_ids, attention_mask),
            target_embeds=target_embeds,
            logit_scale=self._bounded_logit_scale(),
        )

    def get_query_features(self, pixel_values, input_ids, attention_mask=None) -> torch.FloatTensor:
        r"""
        Embed queries, `e_f = lambda * e_r + (1 - lambda) * phi_t(t)`.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`): reference images.
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): modification texts, padded on the right.
            attention_mask (`torch.LongTensor` of shape `(batch_size, length)`, *optional*):
                1 for real tokens; without it a text ends with its first end token.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, projection_dim)`, L2-normalised.
        """
        return self._embed_queries(pixel_values, input_ids, attention_mask)

    def get_image_features(self, pixel_values) -> torch.FloatTensor:
        r"""
        Embed gallery images, `e_t`: each under the null text, which is encoded once for all.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`): images.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, projection_dim)`, L2-normalised.
        """
        return self._embed_images(pixel_values)


__all__ = ["InstructCIRModel", "InstructCIROutput", "InstructCIRPreTrainedModel"]
