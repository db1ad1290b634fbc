"""Five ways to make one query of the embeddings of an image and a text.

- `image`: the reference image alone; `text`: the text alone;
- `sum`: the normalised sum of both;
- `slerp`: spherical interpolation, 0.8 of the way to the text (Jang et al., arXiv 2405.00571). At 0.5 the ranking
  would be that of the sum;
- `product`: the product of an image's similarities to both; negative ones are clamped to 0, as in FreeDom
  (Efthymiadis et al., WACV 2025).
"""

from typing import Any

import torch
from PIL import Image

from contextcir.retrieval.dense import DenseRetriever, normalize
from contextcir.retrieval.towers import Towers

COMPOSITIONS = ("sum", "slerp", "product", "image", "text")
SLERP_TEXT_WEIGHT = 0.8


def compose(towers: Towers, how: str, **options: Any) -> DenseRetriever:
    """
    Retrieve with two encoders.

    Args:
        towers ([`~contextcir.retrieval.towers.Towers`]): The encoders.
        how (`str`): One of `COMPOSITIONS`. All but `text` need reference images.
        **options: `batch_size`, `num_workers` and `keep`, as for [`~contextcir.retrieval.dense.DenseRetriever`].

    Returns:
        [`~contextcir.retrieval.dense.DenseRetriever`]: All of the same `towers` share the encoding of a gallery.

    Raises:
        `ValueError`: There is no such way.
    """
    if how not in COMPOSITIONS:
        raise ValueError(f"Got {how!r}, expected one of {', '.join(COMPOSITIONS)}.")

    def encode_queries(images: list[Image.Image | None], texts: list[str]) -> torch.Tensor:
        if how == "text":
            return towers.encode_texts(texts)
        image = towers.encode_images(towers.prepared(images))
        if how == "image":
            return image
        text = towers.encode_texts(texts)
        if how == "sum":
            return normalize(image + text)
        if how == "slerp":
            return slerp(image, text, SLERP_TEXT_WEIGHT)
        return torch.stack([image, text], dim=1)  # (batch_size, 2, dim): similarities multiply

    options |= {"prepare": towers.prepare, "identity": towers.identity, "galleries": towers.galleries}
    return DenseRetriever(towers.encode_images, encode_queries, **options)


def slerp(start: torch.Tensor, end: torch.Tensor, weight: float) -> torch.Tensor:
    """Interpolate between L2-normalised vectors of shape `(batch_size, dim)` along the great circle: a `weight` of 0
    gives `start`, 1 gives `end`. If both are equal or opposite, return `start`."""
    angle = (start * end).sum(dim=-1, keepdim=True).clamp(-1, 1).acos()  # (batch_size, 1)
    way = (torch.sin((1 - weight) * angle) * start + torch.sin(weight * angle) * end) / torch.sin(angle)
    return torch.where(torch.sin(angle) > 1e-3, way, start)  # for smaller angles the quotient is rounding noise
