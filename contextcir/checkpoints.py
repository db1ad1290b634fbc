"""Which checkpoint folders training can resume from.

transformers takes the checkpoint with the highest step, also one that a killed run left half-written. Here its files
are looked at first: JSON is parsed, and archives and tensors are opened, which fails on any that were cut.
"""

import json
import os
import zipfile
from pathlib import Path

import safetensors
from transformers.trainer_callback import TrainerState
from transformers.utils import logging

logger = logging.get_logger(__name__)


def checkpoint_problem(folder: str | os.PathLike) -> str | None:
    """Why training cannot resume from this folder, or `None`. Reads headers, not weights."""
    folder = Path(folder)
    if not folder.is_dir():
        return "no such folder"
    names = {path.name for path in folder.iterdir()}
    for needed in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "config.json"):
        if needed not in names:
            return f"{needed} is missing"
    index = "model.safetensors.index.json"
    try:
        for name in ("config.json", *({index} & names)):
            json.loads((folder / name).read_text(encoding="utf-8"))
        name = "trainer_state.json"
        TrainerState.load_from_json(folder / name)
    except (ValueError, TypeError) as error:
        return f"{name} is damaged ({error})"
    weights = {"model.safetensors"}
    if index in names:
        weights = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
    for name in sorted(weights - names):
        return f"{name} is missing"
    states = [name for name in names if name.startswith("rng_state") and name.endswith(".pth")]
    if not states:
        return "rng_state.pth is missing"
    for name in sorted([*states, "optimizer.pt", "scheduler.pt"]):
        if not zipfile.is_zipfile(folder / name):
            return f"{name} is damaged"
    for name in sorted(weights):
        try:
            with safetensors.safe_open(folder / name, framework="pt"):
                pass
        except (safetensors.SafetensorError, OSError) as error:
            return f"{name} is damaged ({error})"
    return None


def last_whole_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The checkpoint with the highest step that can be resumed from; incomplete ones are skipped with a warning."""
    steps = {}
    for folder in Path(output_dir).glob("checkpoint-*"):
        number = folder.name.removeprefix("checkpoint-")
        if number.isdigit():
            steps[int(number)] = folder
    for step in sorted(steps, reverse=True):
        problem = checkpoint_problem(steps[step])
        if problem is None:
            return str(steps[step])
        logger.warning(f"Skipping {steps[step]}: {problem}.")
    return None
