"""Configuration of ConText-CIR: two CLIP encoders and the shape of the fusion on top of them.

Paper: ConText-CIR (CVPR 2025), section 3.2. The paper leaves the widths, the number of fusion layers and the direction
of the cross-attention open; the defaults here follow the text encoder.
"""

from difflib import get_close_matches
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

# What transformers itself writes into a `config.json` or hands to a config beside the declared fields.
_FIELDS_OF_TRANSFORMERS = {
    "model_type", "auto_map", "torch_dtype", "name_or_path", "num_labels", "attn_implementation", "output_attentions",
    "experts_implementation", "per_layer_config", "quantization_config", "use_cache", "tie_word_embeddings",
    "tie_last_hidden_states",
}  # fmt: skip


@strict
class ContextCIRConfig(PreTrainedConfig):
    r"""
    Args:
        vision_config (`CLIPVisionConfig` or `dict`, *optional*):
            The image encoder.
        text_config (`CLIPTextConfig` or `dict`, *optional*):
            The text encoder. Its width and that of the image encoder may differ.
        projection_dim (`int`, defaults to 512):
            Size of the embedding that is searched.
        fusion_hidden_size (`int`, *optional*):
            Width of the fusion layers; the width of the text encoder when left out.
        fusion_num_layers (`int`, defaults to 2):
            Number of cross-attention blocks.
        fusion_num_heads (`int`, *optional*):
            Attention heads of the fusion; those of the text encoder when left out.
        fusion_intermediate_size (`int`, *optional*):
            Width of the feed-forward part; four times `fusion_hidden_size` when left out.
        fusion_direction (`str`, defaults to `"text_to_image"`):
            `"text_to_image"`: text tokens are the queries, image tokens the keys and values, so that the attention of
            a token is a distribution over the image. `"image_to_text"`: the other way round.
        fusion_class_token (`bool`, defaults to `True`):
            Whether the fusion sees the class token of the image beside its patches. Attention that goes there goes
            nowhere in the image, and is left out of the maps of noun phrases.
        target_encoding (`str`, defaults to `"fusion"`):
            How gallery images and query-image negatives are embedded. `"fusion"`: `f(I, "")`, the image fused with the
            empty text, as in the paper (section 3.4). `"clip"`: the plain projection of CLIP's image encoder.
        logit_scale_init_value (`float`, defaults to 2.6592):
            Logarithm of the inverse temperature at the start (CLIP's value).

    Raises:
        ValueError: for a field that does not exist (in the configs of the encoders: one that is almost the name of an
            existing one), and for sizes that do not fit together.

    Example:

    ```python
    >>> from modeling_contextcir import ContextCIRConfig, ContextCIRModel

    >>> model = ContextCIRModel(ContextCIRConfig(fusion_num_layers=1))
    ```"""

    model_type = "contextcir"
    sub_configs = {"vision_config": CLIPVisionConfig, "text_config": CLIPTextConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 512
    fusion_hidden_size: int | None = None
    fusion_num_layers: int = 2
    fusion_num_heads: int | None = None
    fusion_intermediate_size: int | None = None
    fusion_direction: Literal["text_to_image", "image_to_text"] = "text_to_image"
    fusion_class_token: bool = True
    target_encoding: Literal["fusion", "clip"] = "fusion"
    logit_scale_init_value: float | int = 2.6592

    def __post_init__(self, **kwargs):
        # transformers keeps unknown fields silently, so that a misspelt option would train the default without a word.
        unknown = sorted(name for name in set(kwargs) - _FIELDS_OF_TRANSFORMERS if not name.startswith("_"))
        if unknown:
            if kwargs.get("model_type") == "clip":
                raise ValueError("This is the config of a CLIP model: use `ContextCIRModel.from_clip_pretrained`.")
            known = ", ".join(sorted(name for name in type(self).__annotations__))
            raise ValueError(
                f"ContextCIRConfig has no field {', '.join(map(repr, unknown))}. Its fields are: {known}."
            )
        for name, config_class in self.sub_configs.items():
            sub_config = getattr(self, name)
            _refuse_misspelt_fields(name, sub_config, config_class)
            if not isinstance(sub_config, config_class):
                setattr(self, name, config_class(**(sub_config or {})))
        if self.fusion_hidden_size is None:
            self.fusion_hidden_size = self.text_config.hidden_size
        if self.fusion_num_heads is None:
            self.fusion_num_heads = self.text_config.num_attention_heads
        if self.fusion_intermediate_size is None:
            self.fusion_intermediate_size = 4 * self.fusion_hidden_size
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of the `@strict` validation: the sizes have to fit together."""
        if self.fusion_num_layers < 1:
            raise ValueError(f"`fusion_num_layers` must be at least 1, got {self.fusion_num_layers}.")
        if self.fusion_hidden_size % self.fusion_num_heads != 0:
            raise ValueError(
                f"`fusion_hidden_size` ({self.fusion_hidden_size}) must be a multiple of `fusion_num_heads` "
                f"({self.fusion_num_heads})."
            )
        if max(self.empty_text_ids) >= self.text_config.vocab_size:
            raise ValueError(
                f"The begin and end tokens {self.empty_text_ids} lie outside the vocabulary of "
                f"{self.text_config.vocab_size} tokens: set `bos_token_id` and `eos_token_id` of `text_config`."
            )

    @property
    def empty_text_ids(self) -> tuple[int, int]:
        """Token ids of the empty text: the begin and the end token. Configs of CLIP from before transformers' pull
        request
        24773 (`eos_token_id == 2`) hold wrong ids; there, these are the last two of the vocabulary."""
        text_config = self.text_config
        if text_config.eos_token_id == 2:
            return text_config.vocab_size - 2, text_config.vocab_size - 1
        return text_config.bos_token_id, text_config.eos_token_id


def _refuse_misspelt_fields(name: str, sub_config: PreTrainedConfig | dict | None, config_class: type) -> None:
    """
    CLIP's configs take any field without a word, and must: files of transformers 4 hold dozens that are gone, such as
    `torchscript`, `top_k` or `pruned_heads`. So only what almost is the name of one of the encoder's own is refused.
    The nearest of the old ones, `sep_token_id`, is like `pad_token_id` to 0.83.
    """
    known = config_class.__annotations__
    given = vars(sub_config) if isinstance(sub_config, PreTrainedConfig) else sub_config or {}
    for field in given:
        similar = get_close_matches(field, known, n=1, cutoff=0.85)
        if similar and field not in known:
            raise ValueError(f"`{name}` has no field {field!r}. Did you mean {similar[0]!r}?")


__all__ = ["ContextCIRConfig"]
