"""Temporarily switch a model to evaluation mode, and detect changes of its weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SAMPLES = 64  # values of each tensor that `weights_state` reads


@contextmanager
def evaluation_mode(model: torch.nn.Module, autocast: torch.dtype | None = None) -> Iterator[torch.device]:
    """
    Switch a model to evaluation mode inside a `with` block. At its end, each submodule gets its own mode back.

    Args:
        model (`torch.nn.Module`): All parameters are on one device.
        autocast (`torch.dtype`, *optional*): Type in which matrix products are computed.

    Yields:
        `torch.device`: The device of the model.
    """
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            yield device
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def weights_state(model: torch.nn.Module) -> tuple[tuple[tuple[int, int], ...], bytes]:
    """
    Return a state that changes with the weights of a model, without reading all of them.

    Args:
        model (`torch.nn.Module`): All weights are on one device.

    Returns:
        `tuple`: The address and version of each tensor, and a sample of its values. In-place changes increase the
        version, and a replaced tensor has another address. Changes through `.data` do neither: they are detected only
        if they touch the sample.
    """
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.numel()]
    versions = tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
    samples = [tensor.flatten()[:: max(1, tensor.numel() // SAMPLES)].float() for tensor in tensors]
    return versions, torch.cat(samples).cpu().numpy().tobytes() if samples else b""
