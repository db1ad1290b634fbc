"""What is logged beside a loss: means and counts over micro-batches, steps and processes since the last log."""

from collections.abc import Sequence

import torch


class LossParts:
    """
    Sums on the device, read once for each log, so that no step waits for the host.

    Args:
        means (`Sequence[str]`): Names of what is averaged.
        counts (`Sequence[str]`): Names of what is summed.
        device (`torch.device`): Where the values are.
    """

    def __init__(self, means: Sequence[str], counts: Sequence[str], device: torch.device):
        self._means = {name: torch.zeros(2, device=device) for name in means}  # sum, weight
        self._counts = {name: torch.zeros((), device=device) for name in counts}

    def add(self, name: str, value: torch.Tensor, weight: torch.Tensor | float = 1.0) -> None:
        """Adds a value to a mean, with a weight. NaN is left out: undefined in this batch."""
        value = value.detach().float()
        weight = torch.where(value.isnan(), 0.0, weight)
        self._means[name] += torch.stack([value.nan_to_num() * weight, weight])

    def count(self, name: str, number: torch.Tensor) -> None:
        """Adds to a count."""
        self._counts[name] += number

    def drain(self, accelerator) -> dict[str, float]:
        """Means that have any weight, and counts, over all processes; the sums begin again at zero."""
        means = accelerator.reduce(torch.stack(list(self._means.values()))).tolist()
        counts = accelerator.reduce(torch.stack(list(self._counts.values()))).tolist()
        for total in (*self._means.values(), *self._counts.values()):
            total.zero_()
        averages = {name: total / weight for name, (total, weight) in zip(self._means, means, strict=True) if weight}
        return {**averages, **dict(zip(self._counts, map(int, counts), strict=True))}
