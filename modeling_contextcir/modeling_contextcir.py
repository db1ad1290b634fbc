"""ConText-CIR: a composed-image-retrieval model whose text tokens attend to the reference image.

Paper: ConText-CIR (CVPR 2025), section 3.2, `f(I, T) = phi_P(phi_A(phi_I(I), phi_T(T)))` with CLIP's encoders `phi_I`,
`phi_T`, cross-attention `phi_A` and the attention pooling of Set Transformer `phi_P`; section 3.3 for the attention of
noun phrases.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .clip_model import CIROutput, CLIPBasedModel, check_rows, normalize
from .configuration_contextcir import ContextCIRConfig
from .fusion_contextcir import ContextCIRFusion, ContextCIRPooler
from .text_passes import is_traced, run_in_passes, split_into_passes


class ContextCIRModel(CLIPBasedModel):
    r"""
    Composes a reference image and a modification text into a query, and embeds gallery images, in one space.

    CLIP's text projection is left out, and its visual projection kept only with `target_encoding="clip"`: every
    parameter is used in every training step.

    Example:

    ```python
    >>> from modeling_contextcir import ContextCIRModel, ContextCIRProcessor

    >>> model = ContextCIRModel.from_clip_pretrained("openai/clip-vit-base-patch32")
    >>> processor = ContextCIRProcessor.from_pretrained("openai/clip-vit-base-patch32")
    >>> inputs = processor(images=[image], text=["add another lorikeet on the branch"])
    >>> query = model.get_query_features(**inputs)
    >>> scores = query @ model.get_image_features(gallery_pixel_values).T  # (1, gallery_size)
    ```"""

    config_class = ContextCIRConfig
    base_model_prefix = "contextcir"
    _no_split_modules = [*CLIPBasedModel._no_split_modules, "ContextCIRLayer"]

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.fusion = ContextCIRFusion(config)
        self.pooler = ContextCIRPooler(config)
        self.projection = nn.Linear(config.fusion_hidden_size, config.projection_dim, bias=False)
        if config.target_encoding == "clip":
            self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ContextCIRPooler):
            init.normal_(module.seed, std=0.02)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """`phi_I`: return all image tokens, the class token first, `(batch_size, 1 + num_patches,
        vision_hidden_size)`. With a frozen image encoder, `forward(encoded_images=)` may start from these."""
        # CLIP normalises its class token only; here every token is read, by layers that expect normalised input.
        return self.vision_model.post_layernorm(self.vision_model(pixel_values).last_hidden_state)

    def _encode_texts(self, input_ids):
        """`phi_T`: return all text tokens, `(batch_size, length, text_hidden_size)`."""
        # CLIP's text encoder is causal and padding is on the right, so that real tokens never attend to padding. Their
        # states are the same without a mask, and attention is fastest. Fusion and pooling mask the padding.
        return self.text_model(input_ids).last_hidden_state

    def _fuse(self, prepared, text_tokens, text_mask, output_attentions=False):
        rows, attentions = self.fusion(prepared, text_tokens, text_mask, output_attentions)
        mask = text_mask if self.fusion.text_queries else None
        if prepared.pooled is not None:
            rows = torch.cat([rows, prepared.pooled], dim=1)
            mask = None if mask is None else F.pad(mask, (0, prepared.pooled.shape[1]), value=True)
        pooled = self.pooler(rows, mask)
        return normalize(self.projection(pooled)), attentions

    def _fuse_texts(self, prepared, input_ids, text_mask, output_attentions=False):
        """Return embeddings of one text for each image, `(batch_size, projection_dim)`, and attentions as from the
        fusion, `(batch_size, length, num_image_tokens)`. Texts of similar length share a pass."""
        batch_size, length = input_ids.shape
        if is_traced():
            return self._fuse(prepared, self._encode_texts(input_ids), text_mask, output_attentions)
        embeds: Any = None
        attentions: Any = None
        for index, longest in split_into_passes(text_mask.sum(dim=1).clamp(min=1)):
            tokens = self._encode_texts(input_ids[index, :longest])
            images = self.fusion.select_images(prepared, index)
            some, maps = self._fuse(images, tokens, text_mask[index, :longest], output_attentions)
            if embeds is None:
                embeds = some.new_empty(batch_size, some.shape[-1])
                attentions = maps.new_zeros(batch_size, length, maps.shape[-1]) if output_attentions else None
            embeds[index] = some
            if output_attentions:
                attentions[index, :longest] = maps
        return embeds, attentions

    def _embed_gallery(self, image_tokens, prepared):
        """Embed images as gallery images, `(batch_size, projection_dim)`: `f(I, "")`, or CLIP's projection."""
        if self.config.target_encoding == "clip":
            return normalize(self.visual_projection(image_tokens[:, 0]))
        empty_text = self._encode_texts(torch.tensor([self.config.empty_text_ids], device=image_tokens.device))
        return self._fuse(prepared, empty_text.expand(image_tokens.shape[0], -1, -1), None)[0]

    def _embed_images(self, pixel_values):
        image_tokens = self.encode_images(pixel_values)
        prepared = None if self.config.target_encoding == "clip" else self.fusion.prepare_images(image_tokens)
        return self._embed_gallery(image_tokens, prepared)

    def _embed_queries(self, pixel_values, input_ids, attention_mask):
        prepared = self.fusion.prepare_images(self.encode_images(pixel_values))
        return self._fuse_texts(prepared, input_ids, self._text_mask(input_ids, attention_mask))[0]

    def _context_attentions(self, attentions, phrase_sample, phrase_token_mask):
        """Return the maps of noun phrases in context, `(num_phrases, num_patches)`, from those of the whole texts,
        `(batch_size, length, num_image_tokens)`."""
        return self._over_patches((attentions[phrase_sample] * phrase_token_mask[:, :, None]).sum(dim=1))

    def _isolated_attentions(self, prepared, context, phrase_inputs, isolated_grad):
        """Return the maps of isolated noun phrases, `(num_phrases, num_patches)`. `context` are those in context."""
        input_ids, attention_mask, phrase_sample, phrase_token_mask = phrase_inputs
        # The text encoder is causal: a phrase at the beginning of its text has the same states as the isolated phrase.
        # A second encoding would differ by rounding only, and the ReLU of the loss would make a gradient of that.
        first = phrase_token_mask[:, 1] & self.fusion.text_queries
        mask = self._text_mask(input_ids, attention_mask)
        with torch.set_grad_enabled(isolated_grad and torch.is_grad_enabled()):
            isolated = context * first[:, None]
            if not len(first):
                return isolated
            if is_traced():  # which phrases are first cannot be part of a graph
                every = self._over_patches(self._isolated_memories(prepared, input_ids, mask, phrase_sample))
                return torch.where(first[:, None], isolated, every)
            others = (~first).nonzero()[:, 0]
            if len(others):
                isolate = self._isolated_rows if self.fusion.text_queries else self._isolated_memories
                maps = isolate(prepared, input_ids[others], mask[others], phrase_sample[others])
                isolated[others] = self._over_patches(maps)
        return isolated

    def _over_patches(self, attentions):
        """Turn attention of noun phrases, summed over their tokens, `(num_phrases, num_image_tokens)`, into
        distributions `(num_phrases, num_patches)`, without the class token."""
        # The sum is not computed as a matrix product, which autocast would compute in half precision.
        patches = attentions[:, 1:] if self.config.fusion_class_token else attentions
        return patches / patches.sum(dim=-1, keepdim=True).clamp(min=1e-12)

    def _isolated_rows(self, prepared, input_ids, mask, phrase_sample):
        """Return the attention of isolated noun phrases whose tokens query the image, `(num_phrases,
        num_image_tokens)`. Rows do not interact, so those of all phrases of a sample are one list."""

        def encode(index, longest):
            return self._encode_texts(input_ids[index, :longest])

        def attend(index, longest):
            images = self.fusion.select_images(prepared, index)
            return self.fusion(images, rows[index, :longest], None, True, False)[1]

        own = _phrase_tokens(mask)
        states = run_in_passes(encode, mask.sum(dim=1), mask.shape[1])[own]  # (num_tokens, text_hidden_size)
        phrase = own.nonzero()[:, 0]
        sample = phrase_sample[phrase]
        counts = sample.bincount(minlength=len(prepared.fused[0][0]))
        order = sample.argsort(stable=True)
        slot = torch.empty_like(sample)  # place of a token among those of its sample
        slot[order] = torch.arange(len(sample), device=sample.device) - (counts.cumsum(0) - counts)[sample[order]]
        rows = states.new_zeros(len(counts), int(counts.max()), states.shape[1])
        rows[sample, slot] = states
        maps = run_in_passes(attend, counts, rows.shape[1])[sample, slot]  # (num_tokens, num_image_tokens)
        return maps.new_zeros(len(mask), maps.shape[1]).index_add(0, phrase, maps)

    def _isolated_memories(self, prepared, input_ids, mask, phrase_sample):
        """The same, each phrase with its image, in either direction: with image tokens as queries, each phrase is a
        memory of its own."""

        def attend(index, longest):
            images = self.fusion.select_images(prepared, phrase_sample[index])
            texts = self._encode_texts(input_ids[index, :longest])
            return self.fusion(images, texts, mask[index, :longest], True, False)[1]

        maps = run_in_passes(attend, mask.sum(dim=1), mask.shape[1])  # (num_phrases, phrase_length, num_image_tokens)
        return (maps * _phrase_tokens(mask)[:, :, None]).sum(dim=1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        reference_index: Tensor | None = None,
        target_index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        phrase_input_ids: Tensor | None = None,
        phrase_attention_mask: Tensor | None = None,
        phrase_sample: Tensor | None = None,
        phrase_token_mask: Tensor | None = None,
        isolated_grad: bool = False,
        encoded_images: Tensor | None = None,
    ) -> CIROutput | BaseModelOutputWithPooling:
        r"""
        Run one training step: all embeddings and attention maps that the losses need, from one pass of the vision
        encoder over the distinct images of the batch. With `pixel_values` alone, embed gallery images: the output has
        `pooler_output`.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): Modification texts, padded on the right.
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, height, width)`, *optional*): Distinct images.
            reference_index (`torch.LongTensor` of shape `(batch_size,)`): Place of each text's reference among them.
            target_index (`torch.LongTensor` of shape `(batch_size + num_others,)`, *optional*): Place of each text's
                target, and of other images that are embedded as targets are, such as mined negatives. By default no
                targets are returned.
            attention_mask (`torch.LongTensor` of shape `(batch_size, length)`, *optional*): 1 for real tokens. By
                default a text ends with its first end token.
            phrase_input_ids (`torch.LongTensor` of shape `(num_phrases, phrase_length)`, *optional*): The noun phrases
                of the whole batch, each alone with begin and end token. There may be none. Without this argument, the
                maps of phrases are computed in context only.
            phrase_attention_mask (`torch.LongTensor`, *optional*): Their mask, as `attention_mask`.
            phrase_sample (`torch.LongTensor` of shape `(num_phrases,)`, *optional*): The row of each phrase's text.
            phrase_token_mask (`torch.BoolTensor` of shape `(num_phrases, length)`, *optional*): Its tokens there.
            isolated_grad (`bool`): Whether the isolated maps carry a gradient.
            encoded_images (`torch.FloatTensor`, *optional*): Output of `encode_images`, instead of `pixel_values`.

        Raises:
            ValueError: There are no images or images in both forms, `reference_index` is missing, there are fewer
                targets than texts, or another index or mask has more or fewer rows.
        """
        if input_ids is None:
            return self._images_alone(pixel_values, reference_index=reference_index, target_index=target_index)
        if reference_index is None:
            raise ValueError("`reference_index` is missing. Give the place of each text's reference image.")
        check_rows(
            input_ids, reference_index=reference_index, target_index=target_index, attention_mask=attention_mask
        )
        image_tokens = self._encode_batch(pixel_values, encoded_images)
        prepared = self.fusion.prepare_images(image_tokens)
        references = self.fusion.select_images(prepared, reference_index)
        text_mask = self._text_mask(input_ids, attention_mask)
        query_embeds, attentions = self._fuse_texts(references, input_ids, text_mask, phrase_token_mask is not None)
        image_embeds = self._embed_gallery(image_tokens, prepared)
        context, isolated = None, None
        if phrase_token_mask is not None:
            context = self._context_attentions(attentions, phrase_sample, phrase_token_mask)
        if phrase_input_ids is not None:
            phrase_inputs = (phrase_input_ids, phrase_attention_mask, phrase_sample, phrase_token_mask)
            isolated = self._isolated_attentions(references, context, phrase_inputs, isolated_grad)
        return CIROutput(
            query_embeds=query_embeds,
            target_embeds=None if target_index is None else image_embeds[target_index],
            reference_embeds=image_embeds[reference_index],
            logit_scale=self._bounded_logit_scale(),
            context_attentions=context,
            isolated_attentions=isolated,
        )

    def get_concept_attentions(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        phrase_input_ids: Tensor,
        phrase_attention_mask: Tensor | None,
        phrase_sample: Tensor,
        phrase_token_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        r"""
        Return the attention of noun phrases to the reference image (figure 5 of the paper). Arguments and errors as
        for [`get_query_features`] and [`forward`].

        Returns:
            `tuple` of two `torch.FloatTensor` of shape `(num_phrases, num_patches)`: in context and isolated. Each row
            is a distribution over the patches of the image, row by row from the top left.
        """
        check_rows(input_ids, pixel_values=pixel_values, attention_mask=attention_mask)
        prepared = self.fusion.prepare_images(self.encode_images(pixel_values))
        text_mask = self._text_mask(input_ids, attention_mask)
        attentions = self._fuse_texts(prepared, input_ids, text_mask, True)[1]
        context = self._context_attentions(attentions, phrase_sample, phrase_token_mask)
        phrase_inputs = (phrase_input_ids, phrase_attention_mask, phrase_sample, phrase_token_mask)
        return context, self._isolated_attentions(prepared, context, phrase_inputs, torch.is_grad_enabled())

    @torch.no_grad()
    def with_random_attention(self, seed: int) -> "ContextCIRModel":
        r"""
        Return a model whose cross-attention compares text and image by random projections, and which is the same
        otherwise: the null of a measure of where noun phrases look. Both share all weights outside the fusion.

        Args:
            seed (`int`): Seed of the projections.
        """
        other, generator = copy.copy(self), torch.Generator().manual_seed(seed)
        other._modules = self._modules | {"fusion": copy.deepcopy(self.fusion)}
        for layer in other.fusion.layers:
            for projection in (layer.attention.q_proj, layer.attention.k_proj):
                drawn = torch.randn(projection.weight.shape, generator=generator) * projection.in_features**-0.5
                projection.weight.copy_(drawn)
                if projection.bias is not None:
                    projection.bias.zero_()
        return other


def _phrase_tokens(mask):
    """Return which tokens of isolated noun phrases `(num_phrases, length)` are neither begin, end nor padding."""
    own = mask & mask.roll(-1, dims=1)
    own[:, [0, -1]] = False
    return own
