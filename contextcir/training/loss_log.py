"""Parts of the loss in the log: means and sums over micro-batches, steps and processes since the last log."""

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState


class LossParts:
    """Values on the device, read once for each log, so that no step waits for the host. All processes add the same
    names in the same order."""

    def __init__(self) -> None:
        self._means: dict[str, torch.Tensor] = {}  # sum and weight
        self._counts: dict[str, torch.Tensor] = {}

    def add(self, name: str, value: torch.Tensor, weight: torch.Tensor | float = 1.0) -> None:
        """Add a value to a mean, with a weight. NaN means undefined in this batch, and is left out."""
        value = value.detach().float()
        weight = torch.where(value.isnan(), 0.0, weight)
        self._means[name] = self._means.get(name, 0.0) + torch.stack([value.nan_to_num() * weight, weight])

    def count(self, name: str, number: torch.Tensor) -> None:
        """Add to a count."""
        self._counts[name] = self._counts.get(name, 0.0) + number.float()

    def drain(self, accelerator: Any) -> dict[str, float]:
        """Return means and counts over all processes, and start again. Means without any value are left out."""
        means = accelerator.reduce(torch.stack(list(self._means.values()))).tolist()
        counts = accelerator.reduce(torch.stack(list(self._counts.values()))).tolist()
        averages = {name: total / weight for name, (total, weight) in zip(self._means, means, strict=True) if weight}
        result = {**averages, **dict(zip(self._counts, map(int, counts), strict=True))}
        self._means, self._counts = {}, {}
        return result


class LogBeforeSaving(TrainerCallback):
    """Log the loss wherever weights may be saved: [`~contextcir.training.trainer.CIRTrainer`] stops at NaN, which must
    not replace a good checkpoint."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if control.should_save or control.should_evaluate or state.global_step >= state.max_steps:
            control.should_log = True

    on_epoch_end = on_step_end
