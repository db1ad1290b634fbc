"""Shared base of the models around CLIP's two encoders: public methods, initialisation, and checks of weights."""

from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPVisionModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .clip_loading import check_tokenizer, commit_of, empty_text_of_tokenizer, hub_options, load_clip, load_whole
from .sentence_transformers_files import write_sentence_transformers_files

MAX_LOG_SCALE = 4.60517  # ln 100, rounded down: CLIP's bound


@dataclass
class CIROutput(ModelOutput):
    """Output of a training step. Embeddings `(batch_size, projection_dim)` are L2-normalised float32. Attentions
    `(num_phrases, num_patches)` are distributions over image patches. A field that a model does not have is `None`."""

    query_embeds: Tensor | None = None
    target_embeds: Tensor | None = None  # target images, and others after them, embedded as gallery images
    reference_embeds: Tensor | None = None  # reference images, embedded as gallery images: the query-image negatives
    logit_scale: Tensor | None = None  # 0-dim: inverse temperature, at most 100
    context_attentions: Tensor | None = None  # attention of each noun phrase's tokens in the whole text
    isolated_attentions: Tensor | None = None  # attention of each noun phrase encoded alone


class CLIPBasedModel(PreTrainedModel):
    """Base of a model that uses the names of `CLIPModel` for its encoders and projections, so that any CLIP checkpoint
    loads directly. Subclasses define `_embed_queries` and `_embed_images`."""

    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings"]

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.text_model = CLIPTextModel._from_config(config.text_config)
        self.vision_model = CLIPVisionModel._from_config(config.vision_config)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # Keeps the scale of the signal at any width: these layers may be 32 or 1,024 wide.
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif module is self:
            init.constant_(self.logit_scale, self.config.logit_scale_init_value)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, *args: Any, **kwargs: Any) -> Any:
        """
        Load a model as in transformers, but refuse weights that do not fit. transformers makes missing tensors at
        random, and ignores unknown ones. With `allow_pickle=True`, weights may also be in `.bin` files.

        Raises:
            ValueError: A file is damaged, there are pickles only, tensors are missing, unknown, of another shape, NaN
                or infinite, or the tokenizer beside the model has another empty text.
        """
        name, with_info = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        where = hub_options(kwargs)  # transformers takes some of them out
        model, info = load_whole(super().from_pretrained, name, *args, **kwargs)
        check_tokenizer(model.config, name, **where)
        # By it a gallery names who embedded it. transformers keeps the commit no longer.
        model.config._commit_hash = getattr(model.config, "_commit_hash", None) or commit_of(name, **where)
        return (model, info) if with_info else model

    @classmethod
    def from_clip_pretrained(cls, name_or_path: str | PathLike, **kwargs: Any) -> Any:
        r"""
        Start from a CLIP checkpoint: copy the tensors that the model shares with it, among them the temperature unless
        `logit_scale_init_value` is given. The other tensors are initialised. The ids of begin, end and padding are
        those of the tokenizer beside the CLIP.

        Args:
            name_or_path (`str`): Folder or Hub name of a `CLIPModel` or a `MetaClip2Model`.
            **kwargs: Fields of the model's config; others go to `CLIPModel.from_pretrained`. `dtype` is float32 by
                default, whatever the stored one: small updates are lost in half precision. `allow_pickle=True` reads
                `.bin` files; `output_loading_info=True` also returns which tensors are new (`missing_keys`).

        Returns:
            The model, in evaluation mode.

        Raises:
            ValueError: It is another kind of model (the error says what it would take), a file of the CLIP model is
                damaged, one of its tensors is missing, unknown, of another shape, NaN or infinite, `projection_dim`
                does not fit a projection that is copied, or a config of an encoder is given.
        """
        fields = {key: kwargs.pop(key) for key in cls.config_class.__annotations__ if key in kwargs}
        if encoders := fields.keys() & {"vision_config", "text_config"}:
            raise ValueError(f"{', '.join(sorted(encoders))}: the encoders are those of {str(name_or_path)!r}.")
        with_info, where = kwargs.pop("output_loading_info", False), hub_options(kwargs)
        clip, encoder_configs = load_clip(name_or_path, cls.config_class.model_type, **kwargs)
        text_config: Any = encoder_configs["text_config"]
        ids, pad = empty_text_of_tokenizer(name_or_path, text_config.vocab_size, **where)
        if clip.config.model_type == "metaclip_2":  # whose ids are right as they stand
            ids = ids or [text_config.bos_token_id, text_config.eos_token_id]
        if ids is not None:
            text_config.bos_token_id, text_config.eos_token_id = ids
            text_config.pad_token_id = text_config.pad_token_id if pad is None else pad
            encoder_configs["begin_end_token_ids"] = ids
        inherited = {key: getattr(clip.config, key) for key in ("projection_dim", "logit_scale_init_value")}
        config = cls.config_class(**inherited | encoder_configs | fields)
        model = cls._from_config(config, dtype=clip.dtype, attn_implementation=clip.config._attn_implementation)
        own, given = model.state_dict(), {"logit_scale"} if "logit_scale_init_value" in fields else set()
        shared = {key: tensor for key, tensor in clip.state_dict().items() if key in own.keys() - given}
        if any(tensor.shape != own[key].shape for key, tensor in shared.items()):
            raise ValueError(
                f"`projection_dim` is {config.projection_dim}, but the projections of {str(name_or_path)!r} have"
                f" {clip.config.projection_dim}. Leave it out."
            )
        new = model.load_state_dict(shared, strict=False)
        info = {"missing_keys": set(new.missing_keys), "unexpected_keys": set(), "mismatched_keys": set()}
        return (model.eval(), info) if with_info else model.eval()

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **kwargs: Any) -> None:
        """Save the model as in transformers, with the files by which sentence-transformers loads it."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            write_sentence_transformers_files(save_directory)

    def _upload_modified_files(self, working_dir: str | PathLike, *args: Any, **kwargs: Any) -> Any:
        write_sentence_transformers_files(working_dir)  # before `save_pretrained(..., push_to_hub=True)` pushes
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Resize the vocabulary as in transformers. Begin and end stay where they are."""
        self.config.begin_end_token_ids = list(self.config.empty_text_ids)
        return super().resize_token_embeddings(*args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def get_query_features(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        r"""
        Embed queries.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`): Reference images.
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): Modification texts, padded on the right.
            attention_mask (`torch.LongTensor` of shape `(batch_size, length)`, *optional*):
                1 for real tokens. By default a text ends with its first end token.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, projection_dim)`, L2-normalised.

        Raises:
            ValueError: There are not as many images as texts.
        """
        check_rows(input_ids, pixel_values=pixel_values, attention_mask=attention_mask)
        return self._embed_queries(pixel_values, input_ids, attention_mask)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        r"""
        Embed gallery images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`): Images.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, projection_dim)`, L2-normalised.
        """
        return self._embed_images(pixel_values)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        r"""
        Embed queries that are a text alone: with a blank reference image in the mean colour of CLIP's training images,
        which is all zeros.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): Texts, padded on the right.
            attention_mask (`torch.LongTensor` of shape `(batch_size, length)`, *optional*): 1 for real tokens.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, projection_dim)`, L2-normalised.
        """
        config = self.config.vision_config
        shape = (input_ids.shape[0], config.num_channels, config.image_size, config.image_size)
        blank = torch.zeros(shape, dtype=self.dtype, device=input_ids.device)
        return self.get_query_features(blank, input_ids, attention_mask)

    @torch.no_grad()
    def hold_logit_scale(self) -> None:
        """Put a temperature that has passed CLIP's bound back to it. Training steps do so; a trainer under FSDP2 does
        it before, where a step sees a copy."""
        self.logit_scale.clamp_(max=MAX_LOG_SCALE)

    def sharding_units(self) -> list[nn.Module]:
        """Return the modules that FSDP2 may gather at each of their calls: those that all training steps call equally
        often, whatever their texts are."""
        return list(self.vision_model.encoder.layers)

    def _images_alone(self, pixel_values: Tensor | None, **texts: Tensor | None) -> BaseModelOutputWithPooling:
        """Answer a call with images and nothing else, as `pipeline("image-feature-extraction")` makes: the embeddings
        of gallery images as `pooler_output`. A training step without texts is refused."""
        if pixel_values is None or any(tensor is not None for tensor in texts.values()):
            raise ValueError("`input_ids` is missing. Give the modification texts, or `pixel_values` alone.")
        return BaseModelOutputWithPooling(pooler_output=self.get_image_features(pixel_values))

    def _encode_batch(self, pixel_values, encoded_images):
        if (pixel_values is None) == (encoded_images is None):
            raise ValueError("Give either `pixel_values` or `encoded_images`.")
        return self.encode_images(pixel_values) if encoded_images is None else encoded_images

    def _bounded_logit_scale(self):
        # The parameter itself is held at the bound: a clamp of its exponential has no gradient beyond the bound, and
        # CLIP's checkpoints start there.
        if self.training:
            self.hold_logit_scale()
        # While FSDP2 shards it, it has a dimension.
        return at_least_float32(self.logit_scale).exp().clamp(max=100.0).reshape(())

    def _text_mask(self, input_ids, attention_mask):
        """Return which tokens are real, `(batch_size, length)`: without a mask, all up to the first end token."""
        if attention_mask is not None:
            return attention_mask.bool()
        is_end = input_ids == self.config.empty_text_ids[1]
        return is_end.cumsum(1) - is_end.long() == 0

    def _pooled_texts(self, input_ids, attention_mask):
        """Return the states of the end tokens, `(batch_size, text_hidden_size)`, as CLIP does. `CLIPTextModel` would
        take the highest id for the end where the end token is 2, as it is in old configs and in MetaCLIP 2."""
        states = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        is_end = input_ids == self.config.empty_text_ids[1]
        return states[torch.arange(states.shape[0], device=states.device), is_end.int().argmax(dim=-1)]


def check_rows(input_ids: Tensor, **others: Tensor | None) -> None:
    """Refuse tensors with more or fewer rows than there are texts; `target_index` may have more, for images that
    belong to no text. Those that are `None` are not checked."""
    for name, tensor in others.items():
        rows = input_ids.shape[0] if tensor is None else tensor.shape[0]
        if rows < input_ids.shape[0] or (rows > input_ids.shape[0] and name != "target_index"):
            raise ValueError(f"`{name}` has {rows} rows for {input_ids.shape[0]} texts. Give one for each text.")


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32, and leave float64 as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def normalize(embeds: Tensor) -> Tensor:
    """Scale vectors `(..., dim)` to unit length, at least in float32: a sum of squares overflows in half precision."""
    return F.normalize(at_least_float32(embeds), dim=-1)


def split_heads(states: Tensor, num_heads: int) -> Tensor:
    """`(batch_size, length, hidden_size)` -> `(batch_size, num_heads, length, head_dim)`."""
    return states.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Queries and keys `(batch_size, num_heads, length, head_dim)`, and a mask that is false for padding -> float32
    weights `(batch_size, num_heads, num_queries, num_keys)`."""
    scores = at_least_float32(query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1)
