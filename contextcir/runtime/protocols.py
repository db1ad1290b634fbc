"""The contract of a retrieval model: anything with these two methods can be trained, measured and searched with."""

from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class RetrievalModel(Protocol):
    """
    A model that embeds queries and gallery images in one space: a `torch.nn.Module`, all of it on one device.

    The dot product of two embeddings is the score, so both are L2-normalised and float32. Models of
    `modeling_contextcir` are such, and any other with these methods will do.
    """

    def get_query_features(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """
        Embed queries.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): Reference images.
            input_ids (`torch.Tensor` of shape `(batch_size, length)`): Modification texts.
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`): 1 for real tokens, 0 for padding.

        Returns:
            `torch.Tensor` of shape `(batch_size, dim)`: L2-normalised float32.

        Raises:
            `ValueError`: There are not as many images as texts.
        """
        ...

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Embed gallery images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): Images.

        Returns:
            `torch.Tensor` of shape `(batch_size, dim)`: L2-normalised float32.
        """
        ...
