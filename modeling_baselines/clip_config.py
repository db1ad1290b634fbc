"""What configs of models around CLIP's two encoders share.

The folders `modeling_*` travel alone, so that each has this file of its own, the same byte for byte (a test compares).
"""

from difflib import get_close_matches

from transformers import CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

# What transformers itself writes into a `config.json` or hands to a config beside the declared fields.
FIELDS_OF_TRANSFORMERS = {
    "model_type", "auto_map", "torch_dtype", "name_or_path", "num_labels", "attn_implementation", "output_attentions",
    "experts_implementation", "per_layer_config", "quantization_config", "use_cache", "tie_word_embeddings",
    "tie_last_hidden_states",
}  # fmt: skip


class TwoEncoders:
    """For a `PreTrainedConfig` that declares the fields `vision_config` and `text_config`."""

    sub_configs = {"vision_config": CLIPVisionConfig, "text_config": CLIPTextConfig}

    def _set_up_encoders(self, others: dict) -> None:
        """
        The first thing that `__post_init__` does: makes configs of the encoders' dictionaries.

        Raises:
            ValueError: `others`, the keyword arguments beside the declared fields, holds one that does not exist
                (transformers keeps it silently, so that a misspelt option would train the default without a word), or
                a dictionary one that almost is the name of an existing one.
        """
        unknown = sorted(name for name in set(others) - FIELDS_OF_TRANSFORMERS if not name.startswith("_"))
        if unknown:
            if others.get("model_type") == "clip":
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

    @property
    def empty_text_ids(self) -> tuple[int, int]:
        """Token ids of the empty text: the begin and the end token. Configs of CLIP from before transformers' pull
        request 24773 (`eos_token_id == 2`) hold wrong ids; there, these are the last two of the vocabulary."""
        text_config = self.text_config
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
