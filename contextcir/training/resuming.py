"""Resuming of runs: which checkpoint, and whether it fits; and nothing more to train once all steps are done."""

import os
from pathlib import Path
from typing import Any, Literal

from transformers.utils import logging

from contextcir.training.adapters import saved_tensors
from contextcir.training.checkpoints import (
    checkpoint_problem,
    is_sharded,
    last_whole_checkpoint,
    number_of_processes,
)
from contextcir.training.ema import AVERAGE_FILE
from contextcir.training.interruption import StoppableTraining

logger = logging.get_logger(__name__)

Resume = str | bool | Literal["auto"] | None


class ResumableTraining(StoppableTraining):
    """The part of [`~contextcir.training.trainer.CIRTrainer`] that continues from a checkpoint."""

    def checkpoint_to_resume(self, given: Resume) -> str | None:
        """
        Return the checkpoint that a run continues from.

        Args:
            given (`str` or `bool`, *optional*): A checkpoint; `True` for the last whole one; `"auto"` for the same, or
                a new run where there is none. Where a run was killed while it saved its first checkpoint, both begin
                anew.

        Raises:
            ValueError: There is nothing to resume, or the checkpoint is not whole or does not fit this run.
        """
        if not given:
            return None
        if self.is_deepspeed_enabled:  # which has another layout
            return None if given == "auto" and not _checkpoints(self.args.output_dir) else given  # type: ignore
        checkpoint = self._last_checkpoint(given) if given in (True, "auto") else str(given)
        if checkpoint is None:
            return None
        if problem := checkpoint_problem(checkpoint, *self._needed()):
            raise ValueError(
                f"Cannot resume from {checkpoint}: {problem}. resume_from_checkpoint=True takes the last whole one."
            )
        if is_sharded(checkpoint) != self.is_fsdp_enabled:
            raise ValueError(
                f"{checkpoint} is of a run {'with' if is_sharded(checkpoint) else 'without'} FSDP, this one is"
                f" {'with' if self.is_fsdp_enabled else 'without'} it. Resume as that run was started, or start a new"
                " run from its weights."
            )
        if self.moving_average is None and os.path.isfile(os.path.join(checkpoint, AVERAGE_FILE)):
            raise ValueError(
                f"{checkpoint} has targets from a moving average ({AVERAGE_FILE}). Give the ema_momentum of that run,"
                " or delete that file to continue with targets from the model itself."
            )
        before, now = number_of_processes(checkpoint), self.args.world_size
        if before != now:
            raise ValueError(
                f"{checkpoint} is of a run on {before} processes, this one has {now}: its batches would be others."
                f" Resume on {before}, or start a new run from its weights."
            )
        return checkpoint

    def _last_checkpoint(self, given: Resume) -> str | None:
        folder = self.args.output_dir
        checkpoint = last_whole_checkpoint(folder, *self._needed())
        if checkpoint is not None:
            return checkpoint
        if other := last_whole_checkpoint(folder):
            problem = checkpoint_problem(other, *self._needed())
            raise ValueError(f"Nothing to resume: {other} does not fit this run: {problem}.")
        if given == "auto" or _checkpoints(folder):
            logger.warning(f"There is no whole checkpoint in {folder}: the run begins anew.")
            return None
        raise ValueError(
            f"Nothing to resume: no whole checkpoint in {folder}. resume_from_checkpoint=auto begins a new run then."
        )

    def _needed(self) -> tuple[set[str], dict[str, list[str]]]:
        """Return the tensors that a checkpoint must have, and those of further files."""
        others = {} if self.moving_average is None else {AVERAGE_FILE: self.moving_average.names}
        return saved_tensors(self.model), others

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial):
        result = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial
        )
        if self.stream_position is None or checkpoint is None:
            return result
        if not self.args.ignore_data_skip:
            self.stream_position.load(checkpoint, self.args.process_index)
        return 0, 0  # nothing is left to skip

    def _run_epoch(self, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # killed after its last checkpoint: all steps are done
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)


def _checkpoints(folder: str | os.PathLike) -> list[Path]:
    return list(Path(folder).glob("checkpoint-*"))
