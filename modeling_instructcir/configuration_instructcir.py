"""Configuration of InstructCIR: two CLIP encoders, of which one reads the other in every block, and the predictor.

Paper: Scaling Prompt Instructed Zero Shot Composed Image Retrieval with Image-Only Data (arXiv 2504.00812), section
II-B. The cross-attention has no sizes of its own: as wide as the image encoder and with as many heads (section IV-A).
The paper leaves the width of the predictor open; here it is that of its input.
"""

from difflib import get_close_matches

from huggingface_hub.dataclasses import strict
from transformers import CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

# What transformers itself writes into a `config.json` or hands to a config beside the declared fields.
_FIELDS_OF_TRANSFORMERS = {
    "model_type", "auto_map", "torch_dtype", "name_or_path", "num_labels", "attn_implementation", "output_attentions",
    "experts_implementation", "per_layer_config", "quantization_config", "use_cache", "tie_word_embeddings",
    "tie_last_hidden_states",
}  # fmt: skip


@strict
class InstructCIRConfig(PreTrainedConfig):
    r"""
    Args:
        vision_config (`CLIPVisionConfig` or `dict`, *optional*):
            The image encoder, whose every block gets a cross-attention to the text.
        text_config (`CLIPTextConfig` or `dict`, *optional*):
            The text encoder. Its width and that of the image encoder may differ.
        projection_dim (`int`, defaults to 512):
            Size of CLIP's common space, which is that of the embedding that is searched.
        cross_attention (`bool`, defaults to `True`):
            Whether the image encoder reads the text. Without, it is CLIP's, and image and text meet in the predictor
            alone (table V of the paper, "w/o CrossAtt.").
        predictor_text (`bool`, defaults to `True`):
            Whether the predictor reads the embedding of the text beside that of the image.
        predictor_hidden_size (`int`, *optional*):
            Width of the predictor; that of its input when left out.
        logit_scale_init_value (`float`, defaults to 2.6592):
            Logarithm of the inverse temperature at the start (CLIP's value).

    Raises:
        ValueError: for a field that does not exist (in the configs of the encoders: one that is almost the name of an
            existing one), and for values that do not fit together.

    Example:

    ```python
    >>> from modeling_instructcir import InstructCIRConfig, InstructCIRModel

    >>> model = InstructCIRModel(InstructCIRConfig(predictor_hidden_size=256))
    ```"""

    model_type = "instructcir"
    sub_configs = {"vision_config": CLIPVisionConfig, "text_config": CLIPTextConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 512
    cross_attention: bool = True
    predictor_text: bool = True
    predictor_hidden_size: int | None = None
    logit_scale_init_value: float | int = 2.6592

    def __post_init__(self, **kwargs):
        # transformers keeps unknown fields silently, so that a misspelt option would train the default without a word.
        unknown = sorted(name for name in set(kwargs) - _FIELDS_OF_TRANSFORMERS if not name.startswith("_"))
        if unknown:
            if kwargs.get("model_type") == "clip":
                raise ValueError("This is the config of a CLIP model: use `InstructCIRModel.from_clip_pretrained`.")
            known = ", ".join(sorted(name for name in type(self).__annotations__))
            raise ValueError(
                f"InstructCIRConfig has no field {', '.join(map(repr, unknown))}. Its fields are: {known}."
            )
        for name, config_class in self.sub_configs.items():
            sub_config = getattr(self, name)
            _refuse_misspelt_fields(name, sub_config, config_class)
            if not isinstance(sub_config, config_class):
                setattr(self, name, config_class(**(sub_config or {})))
        if self.predictor_hidden_size is None:
            self.predictor_hidden_size = self.predictor_input_size
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of the `@strict` validation: the values have to fit together."""
        if self.predictor_hidden_size < 1:
            raise ValueError(f"`predictor_hidden_size` must be at least 1, got {self.predictor_hidden_size}.")
        if not (self.cross_attention or self.predictor_text):
            raise ValueError("Nothing reads the text: leave `cross_attention`, `predictor_text` or both at `True`.")
        if max(self.empty_text_ids) >= self.text_config.vocab_size:
            raise ValueError(
                f"The begin and end tokens {self.empty_text_ids} lie outside the vocabulary of "
                f"{self.text_config.vocab_size} tokens: set `bos_token_id` and `eos_token_id` of `text_config`."
            )

    @property
    def predictor_input_size(self) -> int:
        """What the predictor reads: the embedding of the image and, beside it, that of the text."""
        return self.projection_dim * (2 if self.predictor_text else 1)

    @property
    def empty_text_ids(self) -> tuple[int, int]:
        """Token ids of the paper's null text: the begin and the end token. Configs of CLIP from before transformers'
        pull request 24773 (`eos_token_id == 2`) hold wrong ids; there, these are the last two of the vocabulary."""
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


__all__ = ["InstructCIRConfig"]
