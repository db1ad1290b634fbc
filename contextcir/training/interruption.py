"""Stop training when signals ask for it: save a whole checkpoint, and end with [`RunStopped`].

All processes stop at the same step, whichever of them the signal has reached. A stop inside a step of accumulated
gradients throws these away; they are computed again after resuming. A stop inside an evaluation leaves it out.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState

from contextcir.training.checkpoints import checkpoint_problem
from contextcir.training.loader_workers import shield_workers
from contextcir.training.saving import SafeSaving
from contextcir.training.stop_signals import RunStopped, StopRequest
from contextcir.training.stream_position import StreamPosition
from contextcir.training.streams import SHUFFLE_BUFFER, StreamLoader


class StoppableTraining(SafeSaving):
    """The part of [`~contextcir.training.trainer.CIRTrainer`] that stops when it is asked to."""

    _stop: StopRequest | None = None
    stream_position: StreamPosition | None
    _weights_are_final = False

    def weights_are_final(self) -> None:
        """Say that the weights are replaced by those to publish, of which no checkpoint can be made."""
        self._weights_are_final = True

    def stop_is_asked_for(self) -> bool:
        """Return whether a signal has reached any process. All processes call it together."""
        if self._stop is None:
            return False
        asked = self._stop.signal is not None
        if self.args.world_size == 1:
            return asked
        return bool(self.accelerator.reduce(torch.tensor(float(asked), device=self.accelerator.device)) > 0)

    def stop_with_checkpoint(self, trial: Any = None) -> None:
        """Save a checkpoint of this step unless there is one or the weights are final, and raise [`RunStopped`]."""
        folder = os.path.join(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
        if checkpoint_problem(folder) is not None:
            if self._weights_are_final:
                self.raise_stopped("no checkpoint of this step")
            self._save_checkpoint(self.model_wrapped, trial)
        self.raise_stopped(folder)

    def raise_stopped(self, saved: str) -> None:
        """Raise [`RunStopped`], and say what is saved."""
        by = getattr(self._stop, "signal", None) or "a signal to another process"
        raise RunStopped(
            f"stopped by {by} after step {self.state.global_step}; saved: {saved}. Run it again with"
            " resume_from_checkpoint=auto."
        )

    @contextmanager
    def stopping_with_checkpoint(self, trial: Any = None) -> Iterator[None]:
        """Let a signal end what follows or interrupts training, such as an evaluation, and save a checkpoint then. Of
        several processes, none can stop alone: they do between two batches of an evaluation."""
        stop = self._stop
        if stop is None:
            yield
            return
        try:
            with stop.at_once() if self.args.world_size == 1 else stop.deferred():
                yield
        except RunStopped:
            self.stop_with_checkpoint(trial)

    def _evaluate(self, trial, *args, **kwargs):
        with self.stopping_with_checkpoint(trial):
            return super()._evaluate(trial, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """Return the training batches as in transformers. Workers leave signals to this process."""
        if self.stream_position is None:
            return shield_workers(super().get_train_dataloader())
        args = self.args
        loader = StreamLoader(  # not prepared by accelerate, which would share it out again
            self.train_dataset,
            self.data_collator,
            self._train_batch_size,
            shuffle_buffer=SHUFFLE_BUFFER if args.shuffle_buffer is None else args.shuffle_buffer,
            seed=args.seed if args.data_seed is None else args.data_seed,
            process=(args.process_index, args.world_size),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        self.stream_position.begin(loader)
        return shield_workers(loader)


class StopWhenAsked(TrainerCallback):
    """Stop a trainer after a step, a micro-batch or a batch of an evaluation."""

    def __init__(self, trainer: StoppableTraining):
        self.trainer = trainer
        self._saves_and_stops = False

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer.stop_is_asked_for():
            control.should_log = control.should_save = self._saves_and_stops = True
            control.should_evaluate = False

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._saves_and_stops:
            self.trainer.raise_stopped(os.path.join(args.output_dir, f"checkpoint-{state.global_step}"))

    def on_substep_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer.stop_is_asked_for():
            self.trainer.stop_with_checkpoint()

    def on_prediction_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.world_size > 1 and self.trainer.stop_is_asked_for():
            raise RunStopped("stopped in an evaluation")
