"""What the trainer of transformers does not tell others by itself."""

from transformers import TrainerCallback


class TellEpoch(TrainerCallback):
    """Tells the collator which epoch begins (the data loader tells samplers and data sets only)."""

    def __init__(self, collator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.set_epoch(int(state.epoch or 0))


class LogBeforeSaving(TrainerCallback):
    """Log the loss wherever weights may be saved: [`~contextcir.training.trainer.CIRTrainer`] stops at NaN, which must
    not replace a good checkpoint."""

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_save or control.should_evaluate or state.global_step >= state.max_steps:
            control.should_log = True

    on_epoch_end = on_step_end
