"""ConText-CIR: a composed-image-retrieval model whose text tokens look at the reference image.

Paper: ConText-CIR (CVPR 2025), section 3.2, `f(I, T) = phi_P(phi_A(phi_I(I), phi_T(T)))` with CLIP's encoders `phi_I`,
`phi_T`, cross-attention `phi_A` and the attention pooling of Set Transformer `phi_P`; section 3.3 for the attention of
noun phrases.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import CLIPTextModel, CLIPVisionModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .clip_model import AroundCLIP, normalize, split_into_passes
from .configuration_contextcir import ContextCIRConfig
from .fusion_contextcir import ContextCIRFusion, ContextCIRPooler


@dataclass
class ContextCIROutput(ModelOutput):
    r"""
    Args:
        query_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`):
            `f(I_reference, T)`, L2-normalised float32, as all embeddings here.
        target_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`):
            The target images as gallery images.
        reference_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`):
            The reference images as gallery images: the query-image negative of the contrastive loss.
        logit_scale (`torch.FloatTensor`, 0-dim):
            Inverse temperature, at most 100.
        context_attentions (`torch.FloatTensor` of shape `(num_phrases, num_patches)`, *optional*):
            For each noun phrase, where its tokens in the whole text look: a distribution over image patches.
        isolated_attentions (`torch.FloatTensor` of shape `(num_phrases, num_patches)`, *optional*):
            The same for the noun phrase encoded by itself.
    """

    query_embeds: torch.FloatTensor | None = None
    target_embeds: torch.FloatTensor | None = None
    reference_embeds: torch.FloatTensor | None = None
    logit_scale: torch.FloatTensor | None = None
    context_attentions: torch.FloatTensor | None = None
    isolated_attentions: torch.FloatTensor | None = None


class ContextCIRPreTrainedModel(AroundCLIP, PreTrainedModel):
    """Initialisation of the new layers, and loading that refuses incomplete or broken weights."""

    config_class = ContextCIRConfig
    base_model_prefix = "contextcir"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings", "ContextCIRLayer"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            # Keeps the scale of the signal whatever the width: these layers may be 32 or 1,024 wide.
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, ContextCIRPooler):
            init.normal_(module.seed, std=0.02)
        elif isinstance(module, ContextCIRModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)


class ContextCIRModel(ContextCIRPreTrainedModel):
    r"""
    Composes a reference image and a modification text into a query, and embeds gallery images, in one space.

    The encoders bear the names that they have in `CLIPModel`, so that any CLIP checkpoint loads straight in. CLIP's
    text projection is not kept, and its visual projection only with `target_encoding="clip"`: every parameter is used
    in every training step.

    Example:

    ```python
    >>> from modeling_contextcir import ContextCIRModel, ContextCIRProcessor

    >>> model = ContextCIRModel.from_clip_pretrained("openai/clip-vit-base-patch32")
    >>> processor = ContextCIRProcessor.from_pretrained("openai/clip-vit-base-patch32")
    >>> inputs = processor(images=[image], text=["add another lorikeet on the branch"])
    >>> query = model.get_query_features(**inputs)
    >>> scores = query @ model.get_image_features(gallery_pixel_values).T  # (1, gallery_size)
    ```"""

    def __init__(self, config: ContextCIRConfig):
        super().__init__(config)
        self.text_model = CLIPTextModel._from_config(config.text_config)
        self.vision_model = CLIPVisionModel._from_config(config.vision_config)
        self.fusion = ContextCIRFusion(config)
        self.pooler = ContextCIRPooler(config)
        self.projection = nn.Linear(config.fusion_hidden_size, config.projection_dim, bias=False)
        if config.target_encoding == "clip":
            self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()

    def encode_images(self, pixel_values) -> torch.FloatTensor:
        """`phi_I`: all image tokens, the class token first, `(batch_size, 1 + num_patches, vision_hidden_size)`. Where
        the image encoder rests, training may begin here, with `forward(encoded_images=...)`."""
        # CLIP normalises its class token only; here every token is read, by layers that expect normalised input.
        return self.vision_model.post_layernorm(self.vision_model(pixel_values).last_hidden_state)

    def _encode_texts(self, input_ids):
        """`phi_T`: all text tokens, `(batch_size, length, text_hidden_size)`."""
        # CLIP's text encoder is causal and padding stands on the right, so that no real token ever sees it: without a
        # mask the states of real tokens are the same, and attention takes its fastest path. Fusion and pooling mask
        # the padding.
        return self.text_model(input_ids).last_hidden_state

    def _project(self, embeds, projection):
        return normalize(projection(embeds))

    def _fuse(self, prepared, text_tokens, text_mask, output_attentions=False):
        rows, attentions = self.fusion(prepared, text_tokens, text_mask, output_attentions)
        pooled = self.pooler(rows, text_mask if self.fusion.text_queries else None)
        return self._project(pooled, self.projection), attentions

    def _fuse_texts(self, prepared, input_ids, text_mask, output_attentions=False):
        """Embeddings of one text for each image, `(batch_size, projection_dim)`, and attentions as from the fusion,
        `(batch_size, length, num_image_tokens)`; texts of similar length share a pass."""
        batch_size, length = input_ids.shape
        embeds, attentions = None, None
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

    def _embed_images(self, image_tokens, prepared):
        """Embeddings of images as members of a gallery, `(batch_size, projection_dim)`."""
        if self.config.target_encoding == "clip":
            return self._project(image_tokens[:, 0], self.visual_projection)
        empty_text = self._encode_texts(torch.tensor([self.config.empty_text_ids], device=image_tokens.device))
        return self._fuse(prepared, empty_text.expand(len(image_tokens), -1, -1), None)[0]

    def _concept_attentions(self, prepared, attentions, phrase_inputs, isolated_grad):
        """`attentions` are those of the whole texts, `(batch_size, length, num_image_tokens)`. Two tensors
        `(num_phrases, num_patches)`: in context, isolated."""
        input_ids, attention_mask, phrase_sample, phrase_token_mask = phrase_inputs
        context = self._over_patches((attentions[phrase_sample] * phrase_token_mask[:, :, None]).sum(dim=1))
        # The text encoder is causal: a phrase that begins its text is read as if it stood alone. Encoded again, it
        # would give the same map but for rounding, and of that the ReLU of the loss would make a gradient.
        first = phrase_token_mask[:, 1] & self.fusion.text_queries
        others = (~first).nonzero()[:, 0]
        with torch.set_grad_enabled(isolated_grad and torch.is_grad_enabled()):
            isolated = context * first[:, None]
            if len(others):
                mask = self._text_mask(input_ids, attention_mask)[others]
                isolate = self._isolated_rows if self.fusion.text_queries else self._isolated_memories
                isolated[others] = self._over_patches(
                    isolate(prepared, input_ids[others], mask, phrase_sample[others])
                )
        return context, isolated

    def _over_patches(self, attentions):
        """Attention of noun phrases, summed over their tokens, `(num_phrases, num_image_tokens)` -> `(num_phrases,
        num_patches)`: class token left out, normalised over patches."""
        # No matrix product made the sum: autocast would have made half precision of it.
        patches = attentions[:, 1:] if self.config.fusion_class_token else attentions
        return patches / patches.sum(dim=-1, keepdim=True).clamp(min=1e-12)

    def _isolated_rows(self, prepared, input_ids, mask, phrase_sample):
        """Attention of noun phrases that are encoded by themselves, `(num_phrases, num_image_tokens)`, where their
        tokens query the image: rows that do not see each other, so that all those of a sample are one list."""

        def encode(index, longest):
            return self._encode_texts(input_ids[index, :longest])

        def look(index, longest):
            images = self.fusion.select_images(prepared, index)
            return self.fusion(images, rows[index, :longest], None, True, False)[1]

        own = _own_tokens(mask)
        states = _in_passes(encode, mask.sum(dim=1), mask.shape[1])[own]  # (num_tokens, text_hidden_size)
        phrase = own.nonzero()[:, 0]
        sample = phrase_sample[phrase]
        counts = sample.bincount(minlength=len(prepared[0][0]))
        order = sample.argsort(stable=True)
        slot = torch.empty_like(sample)  # place of a token among those of its sample
        slot[order] = torch.arange(len(sample), device=sample.device) - (counts.cumsum(0) - counts)[sample[order]]
        rows = states.new_zeros(len(counts), int(counts.max()), states.shape[1])
        rows[sample, slot] = states
        maps = _in_passes(look, counts, rows.shape[1])[sample, slot]  # (num_tokens, num_image_tokens)
        return maps.new_zeros(len(mask), maps.shape[1]).index_add(0, phrase, maps)

    def _isolated_memories(self, prepared, input_ids, mask, phrase_sample):
        """The same where image tokens query the text: each phrase is a memory of its own."""

        def look(index, longest):
            images = self.fusion.select_images(prepared, phrase_sample[index])
            texts = self._encode_texts(input_ids[index, :longest])
            return self.fusion(images, texts, mask[index, :longest], True, False)[1]

        maps = _in_passes(look, mask.sum(dim=1), mask.shape[1])  # (num_phrases, phrase_length, num_image_tokens)
        return (maps * _own_tokens(mask)[:, :, None]).sum(dim=1)

    def forward(
        self,
        input_ids: torch.LongTensor,
        pixel_values: torch.FloatTensor | None = None,
        reference_index: torch.LongTensor | None = None,
        target_index: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        phrase_input_ids: torch.LongTensor | None = None,
        phrase_attention_mask: torch.LongTensor | None = None,
        phrase_sample: torch.LongTensor | None = None,
        phrase_token_mask: torch.BoolTensor | None = None,
        isolated_grad: bool = False,
        encoded_images: torch.FloatTensor | None = None,
    ) -> ContextCIROutput:
        r"""
        One training step: all embeddings and attention maps that the losses need, from one pass of the vision encoder
        over the distinct images of the batch.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): modification texts, padded on the right.
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, height, width)`, *optional*): images, each
                once.
            reference_index (`torch.LongTensor` of shape `(batch_size,)`): which of them is the reference of each text.
            target_index (`torch.LongTensor` of shape `(batch_size,)`, *optional*): which of them is its target;
                without, no targets are returned.
            attention_mask (`torch.LongTensor` of shape `(batch_size, length)`, *optional*):
                1 for real tokens; without it a text ends with its first end token.
            phrase_input_ids (`torch.LongTensor` of shape `(num_phrases, phrase_length)`, *optional*):
                The noun phrases of the whole batch, each by itself with begin and end token. There may be none.
            phrase_attention_mask (`torch.LongTensor` of shape `(num_phrases, phrase_length)`, *optional*): as
                `attention_mask`.
            phrase_sample (`torch.LongTensor` of shape `(num_phrases,)`, *optional*): the row of the batch of each
                phrase.
            phrase_token_mask (`torch.BoolTensor` of shape `(num_phrases, length)`, *optional*): its tokens in that
                row.
            isolated_grad (`bool`): whether the isolated side carries a gradient.
            encoded_images (`torch.FloatTensor`, *optional*): what `encode_images` makes of `pixel_values`, in their
                place, `(num_images, 1 + num_patches, vision_hidden_size)`.

        Returns:
            [`ContextCIROutput`]

        Raises:
            ValueError: without images or without `reference_index`, and with images in both forms.
        """
        if (pixel_values is None) == (encoded_images is None) or reference_index is None:
            raise ValueError("Give `pixel_values` or `encoded_images`, and `reference_index` into them.")
        with_concepts = phrase_input_ids is not None
        image_tokens = self.encode_images(pixel_values) if encoded_images is None else encoded_images
        prepared = self.fusion.prepare_images(image_tokens)
        references = self.fusion.select_images(prepared, reference_index)
        text_mask = self._text_mask(input_ids, attention_mask)
        query_embeds, attentions = self._fuse_texts(references, input_ids, text_mask, with_concepts)
        image_embeds = self._embed_images(image_tokens, prepared)
        context = isolated = None
        if with_concepts:
            phrase_inputs = (phrase_input_ids, phrase_attention_mask, phrase_sample, phrase_token_mask)
            context, isolated = self._concept_attentions(references, attentions, phrase_inputs, isolated_grad)
        return ContextCIROutput(
            query_embeds=query_embeds,
            target_embeds=None if target_index is None else image_embeds[target_index],
            reference_embeds=image_embeds[reference_index],
            logit_scale=self._bounded_logit_scale(),
            context_attentions=context,
            isolated_attentions=isolated,
        )

    def get_query_features(self, pixel_values, input_ids, attention_mask=None) -> torch.FloatTensor:
        r"""
        Embed queries, `f(I, T)`.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`): reference images.
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): modification texts, padded on the right.
            attention_mask (`torch.LongTensor` of shape `(batch_size, length)`, *optional*):
                1 for real tokens; without it a text ends with its first end token.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, projection_dim)`, L2-normalised.
        """
        prepared = self.fusion.prepare_images(self.encode_images(pixel_values))
        return self._fuse_texts(prepared, input_ids, self._text_mask(input_ids, attention_mask))[0]

    def get_image_features(self, pixel_values) -> torch.FloatTensor:
        r"""
        Embed gallery images, `f(I, "")` or CLIP's projection (`target_encoding`).

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`): images.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, projection_dim)`, L2-normalised.
        """
        image_tokens = self.encode_images(pixel_values)
        prepared = None if self.config.target_encoding == "clip" else self.fusion.prepare_images(image_tokens)
        return self._embed_images(image_tokens, prepared)

    def get_concept_attentions(
        self,
        pixel_values,
        input_ids,
        attention_mask,
        phrase_input_ids,
        phrase_attention_mask,
        phrase_sample,
        phrase_token_mask,
    ) -> tuple[torch.FloatTensor, torch.FloatTensor]:
        r"""
        Where noun phrases look in the reference image (figure 5 of the paper). Arguments as in `forward`.

        Returns:
            `tuple` of two `torch.FloatTensor` of shape `(num_phrases, num_patches)`: in context and isolated. Each row
            is a distribution over the patches of the image, row by row from the top left.
        """
        prepared = self.fusion.prepare_images(self.encode_images(pixel_values))
        text_mask = self._text_mask(input_ids, attention_mask)
        attentions = self._fuse_texts(prepared, input_ids, text_mask, True)[1]
        phrase_inputs = (phrase_input_ids, phrase_attention_mask, phrase_sample, phrase_token_mask)
        return self._concept_attentions(prepared, attentions, phrase_inputs, torch.is_grad_enabled())


def _in_passes(function, lengths, length):
    """What `function(index, longest)` gives for each pass, `(num_texts_of_the_pass, longest, ...)`, put together to
    `(num_texts, length, ...)` with zeros for padding."""
    whole = None
    for index, longest in split_into_passes(lengths):
        part = function(index, longest)
        whole = part.new_zeros(len(lengths), length, *part.shape[2:]) if whole is None else whole
        whole[index, :longest] = part
    return whole


def _own_tokens(mask):
    """Of noun phrases with begin and end token, `(num_phrases, length)`: which tokens are neither, nor padding."""
    own = mask & mask.roll(-1, dims=1)
    own[:, [0, -1]] = False
    return own


__all__ = ["ContextCIRModel", "ContextCIROutput", "ContextCIRPreTrainedModel"]
