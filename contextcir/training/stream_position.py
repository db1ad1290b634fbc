"""The position in a stream of triplets: saved in each checkpoint, so that a resumed run sees the same batches."""

import json
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerState

from contextcir.training.streams import StreamLoader

POSITION_FILE = "stream_position.json"


class StreamPosition(TrainerCallback):
    """
    The position after the last step, of all processes. Batches that are loaded ahead of it do not count.

    Attributes:
        loader ([`~contextcir.training.streams.StreamLoader`]): The batches of this process.
    """

    loader: StreamLoader

    def begin(self, loader: StreamLoader) -> None:
        """Begin where a loader stands."""
        self.loader, self._position = loader, loader.state_dict()

    def load(self, checkpoint: str | Path, process: int) -> None:
        """Continue at the position of a checkpoint. A `ValueError` means that it has none, or of another stream."""
        path = Path(checkpoint, POSITION_FILE)
        if not path.is_file():
            raise ValueError(f"{path} is missing: that run did not train on a stream. Resume it with its own data.")
        self.loader.load_state_dict(json.loads(path.read_text(encoding="utf-8"))["processes"][process])
        self.begin(self.loader)

    def save(self, checkpoint: str | Path, is_saved_here: bool) -> None:
        """Write the position into a checkpoint. All processes call it."""
        processes = gather_object([self._position])
        if is_saved_here:
            Path(checkpoint).mkdir(parents=True, exist_ok=True)
            Path(checkpoint, POSITION_FILE).write_text(json.dumps({"processes": processes}), encoding="utf-8")

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._position = self.loader.state_dict()
        state.epoch = state.global_step / state.max_steps  # transformers would begin at 0 again after resuming
