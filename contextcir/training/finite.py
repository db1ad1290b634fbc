"""Find the first step whose gradient is NaN or infinite, and the triplets of its batch.

The loss of such a step may be finite: it is the next one that shows the damage, which never comes after the last step.
Norms stay on the device until a check reads all of them at once, so that no step waits for the host.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

CHECK_EVERY = 100  # steps whose norms and ids are kept


class BadStep(NamedTuple):
    """A step, the norm of its gradient, and the ids of this process's triplets."""

    step: int
    norm: float
    triplet_ids: list[str]


class GradientWatch:
    """The norms of the gradients since the last check, and the ids of their triplets."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, Any, list[str]]] = []
        self._batch: list[str] = []

    def add_batch(self, triplet_ids: Sequence[str]) -> None:
        """Add the triplets of a micro-batch to the step that begins or goes on."""
        self._batch += triplet_ids

    def add_step(self, step: int, norm: torch.Tensor | float) -> None:
        """End a step with the norm of its gradient."""
        self._steps.append((step, norm, self._batch))
        self._batch = []

    @property
    def is_full(self) -> bool:
        """`bool`: Whether it is time for a check."""
        return len(self._steps) >= CHECK_EVERY

    def first_bad_step(self) -> BadStep | None:
        """Return the first step since the last check whose norm is NaN or infinite, and forget all of them."""
        steps, self._steps = self._steps, []
        if not steps:
            return None
        norms = torch.stack([torch.as_tensor(norm).detach().float().reshape(()) for _, norm, _ in steps]).tolist()
        for (step, _, triplet_ids), norm in zip(steps, norms, strict=True):
            if norm - norm != 0:  # of NaN and infinity it is NaN
                return BadStep(step, norm, triplet_ids)
        return None


@torch.no_grad()
def names_not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinite values. Of tensors that are spread over processes, the
    part of this process is read."""
    parts = {name: getattr(tensor, "to_local", lambda tensor=tensor: tensor)() for name, tensor in tensors.items()}
    parts = {name: part for name, part in parts.items() if part.is_floating_point() and part.numel()}
    if not parts:
        return []
    finite = torch.stack([torch.isfinite(part).all() for part in parts.values()]).tolist()
    return [name for name, is_finite in zip(parts, finite, strict=True) if not is_finite]
