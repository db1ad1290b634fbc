"""Memory that does not suffice: say which options need less."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class OutOfMemoryAdviceError(RuntimeError):
    """A device has too little memory for a training step, and the message says what to do."""

    exit_code = 1  # of a command, which then shows no traceback


@contextmanager
def advising_less_memory(batch_size: int) -> Iterator[None]:
    """Add advice to the error of a full memory. Others pass."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in text:
            raise
        said = text.splitlines()[0] if text else type(error).__name__
        raise OutOfMemoryAdviceError(
            f"Out of memory with per_device_train_batch_size={batch_size}. Lower it, set activation_checkpointing=True"
            " or, on a device that has it, bf16=True. gradient_accumulation_steps keeps the number of triplets of a"
            f" step, but negatives are those of each micro-batch. ({said})"
        ) from error
