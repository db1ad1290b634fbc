"""The position in a stream of triplets: saved in each checkpoint, so that a resumed run sees the same batches.

transformers knows neither the length of a pass over a stream nor, from the number of steps alone, in which pass a run
was. A resumed run reads over the rows of its pass that were trained on.
"""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

POSITION_FILE = "stream_position.json"


class StreamPosition(TrainerCallback):
    """
    The pass over the stream, from 0, and the batches of it that this process has trained on.

    Args:
        collator (*optional*): Collator whose augmentation depends on the pass.
    """

    def __init__(self, collator: Any = None):
        self.collator = collator
        self.start()

    def start(self) -> None:
        """Begin with the first pass."""
        self.epoch, self.batches, self._continues = -1, 0, False

    def load(self, checkpoint: str | Path) -> None:
        """Continue at the position of a checkpoint. A `ValueError` means that it has none."""
        path = Path(checkpoint, POSITION_FILE)
        if not path.is_file():
            raise ValueError(f"{path} is missing: that run did not train on a stream. Resume it with its own data.")
        position = json.loads(path.read_text(encoding="utf-8"))
        self.epoch, self.batches, self._continues = position["epoch"], position["batches"], True

    def save(self, checkpoint: str | Path) -> None:
        """Write the position into a checkpoint."""
        Path(checkpoint).mkdir(parents=True, exist_ok=True)
        position = {"epoch": self.epoch, "batches": self.batches}
        Path(checkpoint, POSITION_FILE).write_text(json.dumps(position), encoding="utf-8")

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if not self._continues:
            self.epoch, self.batches = self.epoch + 1, 0
        self._continues = False
        if hasattr(self.collator, "set_epoch"):
            self.collator.set_epoch(self.epoch)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.batches += args.gradient_accumulation_steps
