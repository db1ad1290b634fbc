"""A digest of model weights: the key under which results of a model are cached."""

import hashlib
from collections.abc import Mapping

import torch


def weights_digest(weights: torch.nn.Module | Mapping[str, torch.Tensor]) -> str:
    """
    Compute a digest of all weights of a model: SHA-256 over their names, types, shapes and bytes.

    Args:
        weights (`torch.nn.Module` or `Mapping[str, torch.Tensor]`): A model, or a state dict; of any dtype, on any
            device.

    Returns:
        `str`: 32 hex digits. The device and the order of the state dict do not change it.
    """
    tensors = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())  # NumPy lacks bfloat16
    return digest.hexdigest()[:32]
