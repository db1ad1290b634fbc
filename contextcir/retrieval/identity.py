"""Who made embeddings: a model, its revision and weights, its processor, its type and the way it read images.

Embeddings of two models, or of one model with two processors, have the same shape and must never meet in a search.
"""

import hashlib
import json
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from contextcir.runtime.digests import weights_digest
from contextcir.runtime.inference import weights_state


@dataclass(frozen=True)
class Identity:
    """
    What decides the embeddings of an encoder.

    Args:
        model (`str`): Name of the model, such as a folder or a name on the Hub.
        revision (`str`, *optional*): Its commit on the Hub, or a version of your own.
        weights (`str`, *optional*): Digest of its weights, by [`~contextcir.runtime.digests.weights_digest`].
        processor (`str`, *optional*): Digest of the settings of its image processor.
        dtype (`str`, *optional*, defaults to `float32`): Type of its weights.
        autocast (`str`, *optional*): Type in which it computes; by default that of its weights.
        draft_side (`int`, *optional*): JPEG files are decoded at a reduced size, see
            [`~contextcir.data.images.load_image`].
        truncate_dim (`int`, *optional*): Embeddings are cut to so many numbers.
    """

    model: str
    revision: str | None = None
    weights: str | None = None
    processor: str | None = None
    dtype: str = "float32"
    autocast: str | None = None
    draft_side: int | None = None
    truncate_dim: int | None = None

    @property
    def fingerprint(self) -> str:
        """`str`: 32 hex digits. The name of the model counts only where its weights are unknown: a model is the same
        under another name."""
        who = (self.weights,) if self.weights else (self.model, self.revision)
        cut = () if self.truncate_dim is None else (self.truncate_dim,)  # whole ones keep the digests that they had
        return digest([*who, self.processor, self.dtype, self.autocast, self.draft_side, *cut])[:32]

    def difference(self, other: "Identity") -> str:
        """Name what differs from another identity, with both values: `weights 1a2b (runs/a), got 3c4d (runs/b)`."""
        mine, others = asdict(self), asdict(other)
        renamed = ("model", "revision") if self.weights and other.weights else ()
        some = [name for name in mine if mine[name] != others[name] and name not in renamed]
        return "; ".join(
            f"{name} {mine[name]}"
            + f" ({self.model})" * (name == "weights")
            + f", got {others[name]}"
            + f" ({other.model})" * (name == "weights")
            for name in some
        )


class ModelIdentity:
    """
    The identity of a model of transformers with its processor. All weights are read at the first call, and again after
    they have changed.

    Args:
        model (`torch.nn.Module`): The model.
        processor: Its processor.
        autocast (`torch.dtype`, *optional*): Type in which it computes; by default its own.
    """

    def __init__(self, model: torch.nn.Module, processor: Any, autocast: torch.dtype | None = None):
        self.model, self.processor, self.autocast = model, processor, autocast
        self._last: tuple[Hashable, Identity] | None = None

    def __call__(self) -> Identity:
        state = weights_state(self.model)
        if self._last is None or self._last[0] != state:
            self._last = state, self._compute()
        return self._last[1]

    def _compute(self) -> Identity:
        config = getattr(self.model, "config", None)
        return Identity(
            model=getattr(config, "_name_or_path", "") or type(self.model).__name__,
            revision=getattr(config, "_commit_hash", None),
            weights=weights_digest(self.model),
            processor=_settings(getattr(self.processor, "image_processor", self.processor)),
            dtype=_name(next(self.model.parameters()).dtype),
            autocast=None if self.autocast is None else _name(self.autocast),
        )


def _settings(processor: Any) -> str:
    """A digest of the settings of an image processor, or the name of its class if it does not tell them."""
    if hasattr(processor, "to_dict"):
        return digest(processor.to_dict())[:32]
    return f"{type(processor).__module__}.{type(processor).__qualname__}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def digest(value: Any) -> str:
    """SHA-256 of a value as sorted JSON, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
