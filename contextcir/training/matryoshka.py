"""Matryoshka: embeddings whose first numbers are embeddings as well.

Kusupati et al., Matryoshka Representation Learning (NeurIPS 2022), equation 1. The contrastive loss is computed on the
first numbers of every embedding, renormalised, for each of a few widths. Here it is the mean over the widths where the
paper has the sum. So its size, and the weight of the concept-consistency loss beside it, do not depend on how many.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

logger = logging.get_logger(__name__)


def truncated(embeds: Tensor, width: int) -> Tensor:
    """Return the first `width` numbers of embeddings `(..., dim)`, at unit length and at least in float32."""
    first = embeds[..., :width]
    return torch.nn.functional.normalize(first.to(torch.promote_types(first.dtype, torch.float32)), dim=-1)


def losses_at(
    widths: Sequence[int], loss: Callable[..., Tensor], *embeds: Tensor | None
) -> tuple[Tensor, dict[int, Tensor]]:
    """Return the mean of a loss of embeddings over several widths, and the loss of each."""
    each = {width: loss(*(None if some is None else truncated(some, width) for some in embeds)) for width in widths}
    return torch.stack(list(each.values())).mean(), each


def name_at(width: int, name: str) -> str:
    """Return the name of a metric at a width.

    >>> name_at(128, "recall@10")
    'dim128_recall@10'
    """
    return f"dim{width}_{name}"


def take_widths(model: Any, widths: Sequence[int] | None) -> None:
    """
    Write the widths that a model is trained at into its config.

    Raises:
        ValueError: The model has fewer dimensions, or its own number is not among the widths.
    """
    config = getattr(model, "config", None)
    before = getattr(config, "matryoshka_dims", None)
    if widths is None:
        if before:
            logger.warning(f"The model was trained at the widths {before}. Give matryoshka_dims to keep them good.")
        return
    dim = getattr(config, "projection_dim", None)
    if dim is not None and max(widths) != dim:
        raise ValueError(f"matryoshka_dims are {list(widths)}. The first must be {dim}, the dimensions of the model.")
    if config is not None:
        config.matryoshka_dims = list(widths)
