"""Temporarily switch a model to evaluation mode, and notice when its weights change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluation_mode(model: torch.nn.Module, autocast: torch.dtype | None = None) -> Iterator[torch.device]:
    """
    Put a model into evaluation mode until the context ends, however it ends.

    Args:
        model (`torch.nn.Module`): With all parameters on one device.
        autocast (`torch.dtype`, *optional*): The type that matrix products are computed in.

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


SAMPLES = 64  # values of each tensor that `weights_state` looks at


@torch.no_grad()
def weights_state(model: torch.nn.Module) -> tuple:
    """
    Tell whether the weights of a model have changed since the last call, without reading all of them.

    Args:
        model (`torch.nn.Module`): Any.

    Returns:
        `tuple`: Equal as long as the weights are the same. In-place changes count up the version of a tensor,
        replaced tensors have another address; changes by way of `.data`, which do neither, show in a sample of
        values, unless they touch only others.
    """
    tensors = [*model.parameters(), *model.buffers()]
    state = tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
    samples = [tensor.flatten()[:: max(1, tensor.numel() // SAMPLES)].double() for tensor in tensors if tensor.numel()]
    return state, tuple(torch.cat(samples).tolist()) if samples else ()
