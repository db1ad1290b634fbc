"""Memory that does not suffice: say which options need less."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class OutOfMemoryAdviceError(RuntimeError):
    """A device has too little memory for a training step, and the message says what to do."""

    exit_code = 1  # of a command, which then shows no traceback


@contextmanager
def advising_less_memory(batch_size: int, chunk: int | None = None) -> Iterator[None]:
    """Add advice to the error of a full memory, for a batch size and the `grad_cache_chunk`. Others pass."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in text:
            raise
        smaller = max(1, min(batch_size, chunk or batch_size) // 2)
        size = f"per_device_train_batch_size={batch_size}" + (f" and grad_cache_chunk={chunk}" if chunk else "")
        said = text.splitlines()[0] if text else type(error).__name__
        raise OutOfMemoryAdviceError(
            f"Out of memory with {size}. Set grad_cache_chunk={smaller}: the same gradients at the memory of so many"
            " triplets. Or lower per_device_train_batch_size, set activation_checkpointing=True or, on a device that"
            " has it, bf16=True. gradient_accumulation_steps keeps the number of triplets of a step, but negatives are"
            f" those of each micro-batch. ({said})"
        ) from error
