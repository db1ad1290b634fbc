"""Several processes: which there are, and rows of all of them with their gradients, as a contrastive loss needs them.

`torch.distributed.all_gather` gives no gradient. Trained under DDP, the one given here is that of one large batch.
"""

import atexit

import torch
import torch.distributed as dist
from accelerate import PartialState


def _end_process_group() -> None:
    """Without this, the threads of a process group that still runs at interpreter exit can abort the process
    ("terminate called without an active exception"), after all work is done: the launcher then reports a failure."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


atexit.register(_end_process_group)


def process_state() -> PartialState:
    """The processes that work together, and the device of this one: its accelerator, or the CPU where there is none.
    What a trainer has set up before stays as it is."""
    return PartialState(cpu=not torch.accelerator.is_available())


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """
    Rows of all processes in the order of ranks, with gradients to each.

    Args:
        tensor (`torch.Tensor` of shape `(batch_size, dim)`): The same shape on every process.

    Returns:
        `torch.Tensor` of shape `(num_processes * batch_size, dim)`. The gradient of a row is the sum over the
        losses of all processes. Together with the mean over processes that DDP takes, it is that of one large batch.
    """
    return _Gather.apply(tensor) if dist.is_available() and dist.is_initialized() else tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, tensor.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
