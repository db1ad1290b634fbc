"""What models around CLIP's two encoders share: loading that refuses broken weights, the temperature, texts in passes.

The folders `modeling_*` travel alone, so that each has this file of its own, the same byte for byte (a test compares).
"""

from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPModel
from transformers.modeling_utils import load_state_dict

MAX_LOG_SCALE = 4.60517  # ln 100, rounded down: CLIP's bound
# What one more pass of the text encoder costs, in tokens: on an accelerator, launching its kernels.
PASS_COST = {"cpu": 64, "accelerator": 4096}


class AroundCLIP:
    """For a `PreTrainedModel` with encoders and projections under the names that they have in `CLIPModel`, so that any
    CLIP checkpoint loads straight in, and with a `logit_scale`."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, output_loading_info=False, **kwargs):
        """As in transformers, but weights with missing, NaN or infinite tensors are refused with a `ValueError` that
        names them, instead of being replaced by random numbers or loaded as they are, and so is a damaged file."""
        with _naming_damaged_files(pretrained_model_name_or_path):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
            )
        _refuse_broken_weights(model, info["missing_keys"], pretrained_model_name_or_path)
        return (model, info) if output_loading_info else model

    @classmethod
    def from_clip_pretrained(cls, name_or_path, **kwargs):
        r"""
        Start from a CLIP checkpoint: all that the model has in common with it, and the temperature unless
        `logit_scale_init_value` is given, are its own. All else is new.

        Args:
            name_or_path (`str`): folder or Hub name of a `CLIPModel`.
            **kwargs: fields of the model's config; all others go to `CLIPModel.from_pretrained` (`dtype`, `revision`,
                ...).

        Returns:
            The model, in evaluation mode.

        Raises:
            ValueError: where a tensor of the CLIP model is missing or holds NaN, where a file is damaged, for a
                `projection_dim` that does not fit a projection that is taken over, and for configs of the encoders.
        """
        fields = {key: kwargs.pop(key) for key in cls.config_class.__annotations__ if key in kwargs}
        if encoders := fields.keys() & {"vision_config", "text_config"}:
            raise ValueError(f"{', '.join(sorted(encoders))}: the encoders are those of {str(name_or_path)!r}.")
        with _naming_damaged_files(name_or_path):
            clip, info = CLIPModel.from_pretrained(name_or_path, output_loading_info=True, **kwargs)
        _refuse_broken_weights(clip, info["missing_keys"], name_or_path)
        inherited = ("vision_config", "text_config", "projection_dim", "logit_scale_init_value")
        config = cls.config_class(**{key: getattr(clip.config, key) for key in inherited} | fields)
        model = cls._from_config(config, dtype=clip.dtype, attn_implementation=clip.config._attn_implementation)
        own, given = model.state_dict(), {"logit_scale"} if "logit_scale_init_value" in fields else set()
        taken = {key: tensor for key, tensor in clip.state_dict().items() if key in own.keys() - given}
        if any(tensor.shape != own[key].shape for key, tensor in taken.items()):
            raise ValueError(
                f"`projection_dim` is {config.projection_dim}, but the projections of {str(name_or_path)!r} have"
                f" {clip.config.projection_dim}. Leave it out."
            )
        model.load_state_dict(taken, strict=False)
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def _bounded_logit_scale(self):
        # The parameter itself is held at the bound: a clamp of its exponential alone has no gradient beyond it, and
        # CLIP's checkpoints start there.
        if self.training:
            with torch.no_grad():
                self.logit_scale.clamp_(max=MAX_LOG_SCALE)
        return self.logit_scale.float().exp().clamp(max=100.0)

    def _text_mask(self, input_ids, attention_mask):
        """Which tokens are real, `(batch_size, length)`: without a mask, all up to the first end token."""
        if attention_mask is not None:
            return attention_mask.bool()
        is_end = input_ids == self.config.empty_text_ids[1]
        return is_end.cumsum(1) - is_end.long() == 0


@contextmanager
def _naming_damaged_files(name_or_path):
    """safetensors says what is wrong, but not with which file. Its error is known by name, since this file imports
    torch, transformers and huggingface_hub alone."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        damaged = next(filter(_is_damaged, sorted(Path(name_or_path).glob("*.safetensors"))), None)
        damaged = damaged or f"A file of the weights of {str(name_or_path)!r}"  # in the cache of the Hub
        raise ValueError(f"{damaged} is incomplete or damaged ({error}). Write or download it again.") from error


def _is_damaged(path):
    try:
        load_state_dict(path, map_location="meta")  # headers only
    except Exception:
        return True
    return False


def _refuse_broken_weights(model, missing_keys, name_or_path):
    infinite = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    for problem, keys in (("lack", sorted(missing_keys)), ("hold NaN or infinite values in", infinite)):
        if keys:
            names = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            raise ValueError(f"The weights in {str(name_or_path)!r} {problem} {names}: incomplete or damaged?")


def normalize(embeds):
    """`(..., dim)` -> the same of unit length, in float32: a sum of squares overflows in half precision."""
    return F.normalize(embeds.float(), dim=-1)


def split_into_passes(lengths):
    """How to encode texts of these lengths, `(num_texts,)`, with 0 for those to leave out: pairs of an index tensor
    and a length to cut to, in the split that costs least. Padding costs its tokens, a pass `PASS_COST`."""
    cost = PASS_COST["cpu" if lengths.device.type == "cpu" else "accelerator"]
    counts = lengths.bincount().tolist()
    distinct = [length for length in range(1, len(counts)) if counts[length]]
    least = [(0, [])]  # for the shortest texts up to each length: what they cost, and the longest of each pass
    for end, longest in enumerate(distinct, start=1):
        options, texts = [], 0
        for start in range(end - 1, -1, -1):
            texts += counts[distinct[start]]
            before, ends = least[start]
            options.append((before + texts * longest + cost, [*ends, longest]))
        least.append(min(options))
    ends = least[-1][1]
    return [
        (((lengths > shorter) & (lengths <= longest)).nonzero()[:, 0], longest)
        for shorter, longest in zip([0, *ends], ends, strict=False)
    ]
