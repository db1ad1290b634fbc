"""Encode texts in few passes: texts of similar length share one pass, cut to the longest of them.

Which texts these are depends on the data, and cannot be part of a graph: a compiled or exported model (`is_traced`)
encodes all texts of a batch in one pass, with their padding. The results are the same.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Cost of one more pass of the text encoder, in tokens: on an accelerator, the launch of its kernels.
PASS_COST = {"cpu": 64, "accelerator": 4096}


def is_traced() -> bool:
    """Return whether the model is being compiled or exported."""
    return torch.compiler.is_compiling()


def split_into_passes(lengths: Tensor) -> list[tuple[Tensor, int]]:
    """
    Split texts into passes at the least cost: padding costs its tokens, a pass costs `PASS_COST`.

    Args:
        lengths (`torch.LongTensor` of shape `(num_texts,)`): Length of each text; texts of length 0 are left out.

    Returns:
        `list[tuple[torch.LongTensor, int]]`: For each pass the indices of its texts and the longest of their lengths.
    """
    cost = PASS_COST["cpu" if lengths.device.type == "cpu" else "accelerator"]
    counts = lengths.bincount().tolist()
    distinct = [length for length in range(1, len(counts)) if counts[length]]
    # For the shortest texts up to each length: their least cost, and the longest length of each pass.
    least: list[tuple[int, list[int]]] = [(0, [])]
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


def run_in_passes(function: Callable[[Any, int], Tensor], lengths: Tensor, length: int) -> Tensor:
    """Call `function(index, longest)` for each pass of [`split_into_passes`], of which there must be one, and put its
    results `(num_texts_of_pass, longest, ...)` together: `(num_texts, length, ...)`, zero where padded."""
    if is_traced():
        states = function(slice(None), length)
        real = torch.arange(length, device=lengths.device) < lengths[:, None]  # (num_texts, length)
        return torch.where(real.view(*real.shape, *[1] * (states.dim() - 2)), states, 0)
    whole: Any = None
    for index, longest in split_into_passes(lengths):
        part = function(index, longest)
        whole = part.new_zeros(len(lengths), length, *part.shape[2:]) if whole is None else whole
        whole[index, :longest] = part
    return whole
