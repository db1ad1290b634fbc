"""Shared base of the configs: two CLIP encoders, and checks that refuse misspelt fields."""

from difflib import get_close_matches
from typing import Any

from transformers import CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

# Fields that transformers writes into a `config.json` or passes to a config, beside the declared ones.
TRANSFORMERS_FIELDS = {
    "model_type", "auto_map", "torch_dtype", "name_or_path", "num_labels", "attn_implementation", "output_attentions",
    "experts_implementation", "per_layer_config", "quantization_config", "use_cache", "tie_word_embeddings",
    "tie_last_hidden_states",
}  # fmt: skip


class TwoEncoders:
    """
    First base of the configs. It makes configs of the encoders from their dictionaries.

    Args:
        vision_config (`CLIPVisionConfig` or `dict`, *optional*): The image encoder.
        text_config (`CLIPTextConfig` or `dict`, *optional*): The text encoder. Its width may differ from that of the
            image encoder.
        projection_dim (`int`, defaults to 512): Size of the embeddings.
        logit_scale_init_value (`float`, defaults to 2.6592): Logarithm of the inverse temperature at the start (CLIP's
            value).
        begin_end_token_ids (`list[int]`, *optional*): Token ids of begin and end, which are the empty text, as the
            tokenizer has them. By default those of `text_config`.
        matryoshka_dims (`list[int]`, *optional*): Widths at which embeddings may be cut: the model was trained so that
            the first numbers of an embedding, renormalised, serve as one. The first is `projection_dim`.

    Raises:
        ValueError: A field does not exist. transformers would keep it silently, so that a misspelt option would train
            the default. In the configs of the encoders, a field is almost the name of an existing one.
    """

    sub_configs = {"vision_config": CLIPVisionConfig, "text_config": CLIPTextConfig}
    text_config: Any
    begin_end_token_ids: list[int] | None

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(name for name in set(kwargs) - TRANSFORMERS_FIELDS if not name.startswith("_"))
        if unknown:
            if kwargs.get("model_type") == "clip":
                raise ValueError("This is the config of a CLIP model: use `from_clip_pretrained` of the model.")
            raise ValueError(
                f"{type(self).__name__} has no field {', '.join(map(repr, unknown))}. Its fields are:"
                f" {', '.join(sorted(type(self).__annotations__))}."
            )
        for name, config_class in self.sub_configs.items():
            sub_config = getattr(self, name)
            _refuse_misspelt_fields(name, sub_config, config_class)
            if not isinstance(sub_config, config_class):
                setattr(self, name, config_class(**(sub_config or {})))
        super().__post_init__(**kwargs)  # type: ignore[misc]  # the second base is a `PreTrainedConfig`

    @property
    def empty_text_ids(self) -> tuple[int, int]:
        """Token ids of the empty text: begin and end. CLIP configs from before transformers' pull request 24773
        (`eos_token_id == 2`) hold wrong ids; without `begin_end_token_ids`, these are the last two of the
        vocabulary."""
        text_config = self.text_config
        if self.begin_end_token_ids is not None:
            begin, end = self.begin_end_token_ids
            return begin, end
        if text_config.eos_token_id == 2:
            return text_config.vocab_size - 2, text_config.vocab_size - 1
        return text_config.bos_token_id, text_config.eos_token_id

    def _check_empty_text(self) -> None:
        if max(self.empty_text_ids) >= self.text_config.vocab_size:
            raise ValueError(
                f"The begin and end tokens {self.empty_text_ids} lie outside the vocabulary of "
                f"{self.text_config.vocab_size} tokens: set `bos_token_id` and `eos_token_id` of `text_config`."
            )


def _refuse_misspelt_fields(name: str, sub_config: PreTrainedConfig | dict | None, config_class: type) -> None:
    """
    Refuse a field that is almost the name of one of the encoder's own.

    CLIP's configs accept any field, and must: files of transformers 4 hold dozens that no longer exist, such as
    `torchscript`, `top_k` or `pruned_heads`. The most similar of them, `sep_token_id` to `pad_token_id`, scores 0.83.
    """
    known = config_class.__annotations__
    given = vars(sub_config) if isinstance(sub_config, PreTrainedConfig) else sub_config or {}
    for field in given:
        similar = get_close_matches(field, known, n=1, cutoff=0.85)
        if similar and field not in known:
            raise ValueError(f"`{name}` has no field {field!r}. Did you mean {similar[0]!r}?")
