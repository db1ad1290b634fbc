"""Slots: text tokens that read the patches they share, and are what these patches are rewritten with.

As in slot attention (Locatello et al., NeurIPS 2020), the attention of patches is normalized twice: over text tokens,
which compete for them, and then over patches, to read from them.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedConfig

from modeling_contextcir import ContextCIRConfig, ContextCIRModel
from modeling_contextcir.clip_model import split_heads
from modeling_contextcir.fusion_contextcir import ContextCIRAttention


class SlotAttention(ContextCIRAttention):
    """Attention of image tokens on text tokens, whose values have read the image first."""

    def __init__(self, config: PreTrainedConfig, memory_size: int):
        super().__init__(config, memory_size)
        self.read_proj = nn.Linear(config.fusion_hidden_size, config.fusion_hidden_size)

    def forward(
        self, rows: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        weights = self.weights(rows, key, mask)  # over text tokens
        over_patches = weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-6)
        read = over_patches.transpose(2, 3) @ split_heads(self.read_proj(rows), self.num_heads)
        attended = self.out_proj((weights @ (value + read)).transpose(1, 2).flatten(2))
        return attended, weights.mean(dim=1) if output_attentions else None


def give_slots(model: Any) -> None:
    """Replace the cross-attention of a model with image tokens as the queries."""
    for layer in model.fusion.layers:
        slots = SlotAttention(model.config, model.config.text_config.hidden_size)
        slots.load_state_dict(layer.attention.state_dict(), strict=False)
        layer.attention = slots


def load(folder: Path) -> Any:
    """Return a saved model, with slots if it was trained with them."""
    weights = load_file(folder / "model.safetensors")
    if not any("read_proj" in name for name in weights):
        return ContextCIRModel.from_pretrained(folder).eval()
    model = ContextCIRModel(ContextCIRConfig.from_pretrained(folder))
    give_slots(model)
    model.load_state_dict(weights)
    return model.eval()
