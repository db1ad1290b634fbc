"""A model looked at, perhaps in the middle of its training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluation_mode(model: torch.nn.Module, autocast: torch.dtype | None = None) -> Iterator[torch.device]:
    """
    Puts a model into evaluation mode until the context ends, however it ends.

    Args:
        model (`torch.nn.Module`): With all parameters on one device.
        autocast (`torch.dtype`, *optional*): What matrix products are computed in meanwhile.

    Yields:
        `torch.device`: Where the model is.
    """
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            yield device
    finally:
        model.train(training)
