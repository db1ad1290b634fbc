"""A moving average of the model in training: the target encoder of InstructCIR.

Paper: arXiv 2504.00812, section II-B, an exponential moving average "similar to I-JEPA" (Assran et al., CVPR 2023,
appendix A.1), whose momentum rises from 0.996 to 1 over the run. The predictor is averaged too, since equation 2 makes
targets by "the same function". The average is float32 whatever the type of the model: at a momentum of 0.9999 a step
would be lost in half precision.
"""

import copy
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerState

AVERAGE_FILE = "moving_average.safetensors"


class MovingAverage(TrainerCallback):
    """
    The exponential moving average of a model in training. As a callback it is updated at every step of the optimizer.

    Args:
        model (`torch.nn.Module`): Model with `get_image_features`. Its trainable parameters are averaged; frozen ones
            are the same in both.
        momentum (`float`): Share of the average that the first step keeps, in [0, 1). It rises linearly, to 1 at the
            last step.

    Attributes:
        model (`torch.nn.Module`): The average, float32, in evaluation mode and without gradients.
    """

    def __init__(self, model: torch.nn.Module, momentum: float):
        self.momentum = momentum
        self.model: Any = copy.deepcopy(model).float().eval().requires_grad_(False)
        averages: dict[str, torch.Tensor] = dict(self.model.named_parameters())
        self._averages = {name: averages[name] for name, value in model.named_parameters() if value.requires_grad}

    @property
    def names(self) -> list[str]:
        """`list[str]`: The parameters that are averaged."""
        return list(self._averages)

    @torch.no_grad()
    def on_train_begin(self, args: Any, state: TrainerState, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Copy the weights that training starts from: all processes get those of the first only when the model is
        wrapped. Averages from a checkpoint are kept."""
        values = model.state_dict()
        for name, own in self.model.state_dict().items():
            if state.global_step == 0 or name not in self._averages:
                own.copy_(values[name])

    def momentum_at(self, step: int, num_steps: int) -> float:
        """Return the share of the average that is kept at a step, from 1 to `num_steps`."""
        return self.momentum + (1 - self.momentum) * min(1.0, (step - 1) / max(1, num_steps - 1))

    @torch.no_grad()
    def update(self, model: torch.nn.Module, momentum: float) -> None:
        """Compute `average = momentum * average + (1 - momentum) * model`, in float32."""
        parameters = dict(model.named_parameters())
        values = [parameters[name].detach().float() for name in self._averages]
        torch._foreach_lerp_(list(self._averages.values()), values, 1 - momentum)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.update(model, self.momentum_at(state.global_step, state.max_steps))

    @torch.no_grad()
    def embed_targets(self, pixel_values: torch.Tensor, target_index: torch.Tensor) -> torch.Tensor:
        """Embed the targets of a batch without a gradient, from its images `(num_images, 3, height, width)` and the
        place of each row's target `(batch_size,)`: `(batch_size, dim)`. A target of several rows is encoded once."""
        places, place_of_row = target_index.unique(return_inverse=True)
        return self.model.get_image_features(pixel_values[places])[place_of_row]

    @torch.no_grad()
    def copy_to(self, model: torch.nn.Module) -> None:
        """Copy the averages into the weights of a model, in its own type."""
        values = dict(model.named_parameters())
        for name, average in self._averages.items():
            values[name].copy_(average)

    def save(self, folder: str | os.PathLike) -> None:
        """Write the averages into a checkpoint."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(self._averages, Path(folder, AVERAGE_FILE), metadata={"format": "pt"})

    def load(self, folder: str | os.PathLike) -> None:
        """
        Read the averages of a checkpoint, bit by bit.

        Raises:
            ValueError: The file is missing or damaged, averages other parameters, or holds other shapes, NaN or
                infinite values.
        """
        path = Path(folder, AVERAGE_FILE)
        try:
            averages = load_file(path)
        except (OSError, SafetensorError) as error:
            problem = f"is damaged ({error})" if path.is_file() else "is missing"
            raise ValueError(f"{path} {problem}. Resume without ema_momentum or from another checkpoint.") from error
        if other := sorted(averages.keys() ^ self._averages.keys()):
            raise ValueError(
                f"{path} averages other parameters than this run: {other[0]!r} is in one of them only"
                f" ({len(other)} such). Resume with the options of that run."
            )
        for name, average in self._averages.items():
            if average.shape != averages[name].shape or not torch.isfinite(averages[name]).all():
                raise ValueError(
                    f"{path}: {name} has the shape {tuple(averages[name].shape)}, expected {tuple(average.shape)} and"
                    " finite values. Resume from another checkpoint."
                )
            average.data.copy_(averages[name])
