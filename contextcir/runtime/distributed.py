"""Distributed processes: their state, and a gather of rows that keeps gradients, as a contrastive loss needs it.

`torch.distributed.all_gather` has no gradient. With the one defined here, training under DDP equals training with one
large batch.
"""

import atexit
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState


def _end_process_group() -> None:
    """Without this, threads of a process group that still runs at interpreter exit can abort the process
    ("terminate called without an active exception"). The launcher then reports a failure after all work is done."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


atexit.register(_end_process_group)


def process_state() -> PartialState:
    """Return the state of the distributed processes, with the device of this one: an accelerator, or else the CPU.
    A state that a trainer has set up before is kept."""
    return PartialState(cpu=not torch.accelerator.is_available())


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """
    Gather rows of all processes in the order of ranks, with gradients for every row.

    Args:
        tensor (`torch.Tensor` of shape `(batch_size, dim)`): The same shape on every process.

    Returns:
        `torch.Tensor` of shape `(num_processes * batch_size, dim)`. The gradient of a row is the sum over the losses
        of all processes. DDP then takes the mean over processes, which gives the gradient of one large batch.
    """
    return _Gather.apply(tensor) if dist.is_available() and dist.is_initialized() else tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, tensor.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
