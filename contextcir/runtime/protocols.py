"""The protocol of a retrieval model: models with these two methods can be trained, evaluated and searched with."""

from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class RetrievalModel(Protocol):
    """
    A `torch.nn.Module` on one device that embeds queries and gallery images in one space, such as the models of
    `modeling_contextcir`. Embeddings are L2-normalised and float32, and their dot product is the score.
    """

    def get_query_features(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """
        Embed queries.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): Reference images.
            input_ids (`torch.Tensor` of shape `(batch_size, length)`): Modification texts.
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`): 1 for tokens, 0 for padding.

        Returns:
            `torch.Tensor` of shape `(batch_size, dim)`.

        Raises:
            `ValueError`: The numbers of images and texts differ.
        """
        ...

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed gallery images: `(batch_size, 3, height, width)` to `(batch_size, dim)`."""
        ...
