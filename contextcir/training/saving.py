"""Saving of weights: checked before every save, so that NaN never replaces what was good."""

import os
from typing import Any

import torch
from accelerate.utils import gather_object

from contextcir.training.checkpoints import last_whole_checkpoint
from contextcir.training.disk import naming_a_full_disk
from contextcir.training.finite import GradientWatch, names_not_finite
from contextcir.training.sharding import ShardedTraining

ADVICE = "Look at these triplets, lower learning_rate, set max_grad_norm or use bf16 instead of fp16, and"


class SafeSaving(ShardedTraining):
    """The part of [`~contextcir.training.trainer.CIRTrainer`] that saves checkpoints and models."""

    def watch_gradients(self) -> None:
        """Forget earlier steps: a run begins."""
        self._watch, self._problem = GradientWatch(), ""

    def note_gradient_norm(self, norm: torch.Tensor | float) -> None:
        """Remember the norm of the gradient of the step that ends. With a gradient scaler (fp16), steps whose gradient
        overflows are skipped and no problem."""
        scaled = getattr(self.accelerator, "scaler", None) is not None
        self._watch.add_step(self.state.global_step + 1, 0.0 if scaled else norm)
        if self._watch.is_full:
            self.check_gradients()

    def check_gradients(self) -> None:
        """
        Check the gradients of all steps since the last check. All processes call it: norms are those of all.

        Raises:
            FloatingPointError: One is NaN or infinite. The step and its triplets are named.
        """
        bad = None if self._problem else self._watch.first_bad_step()
        if bad is not None:
            ids = gather_object(bad.triplet_ids)
            named = ", ".join(map(repr, ids[:16])) + (f" and {len(ids) - 16} more" if len(ids) > 16 else "")
            self._problem = f"The gradient is {bad.norm} in step {bad.step} (triplets {named or 'unknown'})"
        if self._problem:
            raise FloatingPointError(f"{self._problem}, expected finite numbers. {ADVICE} {self._way_on()}.")

    def check_finite(self) -> None:
        """
        Check gradients and weights, as before every save.

        Raises:
            FloatingPointError: Some are NaN or infinite.
        """
        self.check_gradients()
        # The state of a sharded model would have to be gathered; each process has its own part of the parameters.
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        broken = names_not_finite(dict(self.model.named_parameters()) if sharded else self.model.state_dict())
        if self.moving_average is not None:
            broken += [f"{name} (moving average)" for name in names_not_finite(self.moving_average.model.state_dict())]
        number = torch.tensor(float(len(broken)), device=self.accelerator.device)
        if broken or (sharded and self.accelerator.reduce(number) > 0):
            more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
            raise FloatingPointError(
                f"The weights are NaN or infinite after step {self.state.global_step} in {', '.join(broken[:3])}{more}"
                f" and not saved. {ADVICE} {self._way_on()}."
            )

    def _way_on(self) -> str:
        if last_whole_checkpoint(self.args.output_dir) is None:
            return "start again: no checkpoint was saved before"
        return "continue from the last checkpoint with resume_from_checkpoint=True"

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        self.note_gradient_norm(norm)
        return norm

    def _save_checkpoint(self, model, trial):
        self.check_finite()
        folder = os.path.join(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
        with naming_a_full_disk(folder, self._tensors_to_save()):
            if self.moving_average is not None and self.args.should_save:
                # Before the other files: `trainer_state.json`, which marks a checkpoint as whole, is written last.
                self.moving_average.save(folder)
            if self.stream_position is not None:
                self.stream_position.save(folder, self.args.should_save)
            super()._save_checkpoint(model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        Save the model as in transformers, but never NaN or infinite weights.

        Raises:
            FloatingPointError: Weights or the gradients of the last steps are NaN or infinite.
            OSError: The disk is full. The file and the number of bytes are named.
        """
        self.check_finite()
        with naming_a_full_disk(output_dir or self.args.output_dir, self._tensors_to_save()[:1]):
            super().save_model(output_dir, _internal_call=_internal_call)

    def _tensors_to_save(self) -> list[Any]:
        """Return what a checkpoint holds: weights, the state of the optimizer, and the moving average."""
        average = () if self.moving_average is None else self.moving_average.model.parameters()
        states = getattr(self.optimizer, "state", None) or {}
        return [
            [*self.model.parameters()],
            [value for state in states.values() for value in state.values() if isinstance(value, torch.Tensor)],
            [*average],
        ]
