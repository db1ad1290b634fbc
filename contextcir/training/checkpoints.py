"""Find the checkpoint folders that training can resume from.

transformers takes the checkpoint with the highest step, even if a killed run left it half-written or its weights are
NaN, and replaces missing tensors by random numbers. Here the files are checked first: JSON is parsed, the checksums of
archives are compared, and each tensor of the weights must be present and finite.
"""

import json
import os
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch.distributed.checkpoint import FileSystemReader
from transformers.trainer_callback import TrainerState
from transformers.utils import logging

logger = logging.get_logger(__name__)

_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_model.safetensors"
SHARDS = ("pytorch_model_fsdp_0", "optimizer_0")  # folders of the weights and the optimizer of a run under FSDP2


class _CheckpointError(Exception):
    """Why training cannot resume from a checkpoint."""


def checkpoint_problem(
    folder: str | os.PathLike, tensors: Collection[str] = (), others: Mapping[str, Collection[str]] | None = None
) -> str | None:
    """
    Return why training cannot resume from a folder, or `None` if it can. Each file is read once, weights one tensor at
    a time.

    Args:
        folder (`str` or `os.PathLike`): A checkpoint of transformers' trainer.
        tensors (`Collection[str]`, *optional*): Names that the weights must have: those of the model's state.
        others (`Mapping[str, Collection[str]]`, *optional*): Further files of weights, such as those of a moving
            average, and the names that each must have.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "no such folder"
    names = {path.name for path in folder.iterdir()}
    try:
        config = "adapter_config.json" if _ADAPTER in names else "config.json"  # of peft, beside its weights
        optimizer = [*SHARDS] if is_sharded(folder) else ["optimizer.pt"]
        _check_present(["trainer_state.json", *optimizer, "scheduler.pt", config], names)
        _read_json(folder / config)
        try:
            TrainerState.load_from_json(folder / "trainer_state.json")
        except (ValueError, TypeError) as error:
            raise _CheckpointError(f"trainer_state.json is damaged ({error})") from error
        weights, states = _weights(folder, names), _random_states(names)
        _check_present([*weights, *states], names)
        for name in (*states, *optimizer, "scheduler.pt"):
            (_check_shards if name in SHARDS else _check_archive)(folder / name)
        _check_weights(folder, weights, tensors)
        for name, needed in (others or {}).items():
            _check_present([name], names)
            _check_weights(folder, [name], needed)
    except _CheckpointError as error:
        return str(error)
    return None


def last_whole_checkpoint(
    output_dir: str | os.PathLike, tensors: Collection[str] = (), others: Mapping[str, Collection[str]] | None = None
) -> str | None:
    """Return the checkpoint with the highest step that training can resume from. Others are skipped with a warning.
    Arguments as for [`checkpoint_problem`]."""
    numbers = {path: path.name.removeprefix("checkpoint-") for path in Path(output_dir).glob("checkpoint-*")}
    folders = [path for path, number in numbers.items() if number.isdigit()]
    for folder in sorted(folders, key=lambda path: int(numbers[path]), reverse=True):
        problem = checkpoint_problem(folder, tensors, others)
        if problem is None:
            return str(folder)
        logger.warning(f"Skipping {folder}: {problem}.")
    return None


def is_sharded(folder: str | os.PathLike) -> bool:
    """Return whether a checkpoint is of a run under FSDP, whose state is in the parts of the processes."""
    return any(Path(folder, name).is_dir() for name in SHARDS)


def number_of_processes(folder: str | os.PathLike) -> int:
    """Return on how many processes a checkpoint was made: each left its random state."""
    return len(_random_states({path.name for path in Path(folder).iterdir()}))


def _check_present(needed: Collection[str], names: set[str]) -> None:
    for name in needed:
        if name not in names:
            raise _CheckpointError(f"{name} is missing")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _CheckpointError(f"{path.name} is damaged ({error})") from error
    if not isinstance(content, dict):
        raise _CheckpointError(f"{path.name} is damaged (it holds a {type(content).__name__}, not an object)")
    return content


def _weights(folder: Path, names: set[str]) -> list[str]:
    """Return the files of the weights: one, or those of the index, or the adapters of peft."""
    if _ADAPTER in names:
        return [_ADAPTER]
    if _INDEX not in names:
        return ["model.safetensors"]
    files = _read_json(folder / _INDEX).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise _CheckpointError(f"{_INDEX} is damaged (it has no weight_map)")
    return sorted(set(map(str, files.values())))


def _random_states(names: set[str]) -> list[str]:
    """Return one file for each process. Those of several are numbered from 0. With three or more, a missing last one
    goes unnoticed here; a run is resumed on as many processes as there are files."""
    found = [name.removeprefix("rng_state_").removesuffix(".pth") for name in names if name.endswith(".pth")]
    numbers = [int(number) for number in found if number.isdigit()]
    if not numbers:
        return ["rng_state.pth"]
    return [f"rng_state_{number}.pth" for number in range(max(1, *numbers) + 1)]


def _check_archive(path: Path) -> None:
    """Compare the checksums of a file of `torch.save`, a zip archive: they show damage that loading ignores."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises EOFError, struct.error, NotImplementedError and more on damaged files
        raise _CheckpointError(f"{path.name} is damaged ({error})") from error
    if damaged is not None:
        raise _CheckpointError(f"{path.name} is damaged (in {damaged})")


def _check_shards(folder: Path) -> None:
    """Compare the sizes of the parts with what their index says, which is written after all of them."""
    try:
        places = FileSystemReader(folder).read_metadata().storage_data.values()
        needed = {place.relative_path: 0 for place in places}
        for place in places:
            needed[place.relative_path] = max(needed[place.relative_path], place.offset + place.length)
        sizes = {name: (folder / name).stat().st_size for name in needed}
    except Exception as error:  # unpickling raises anything on damaged files
        raise _CheckpointError(f"{folder.name} is damaged ({error})") from error
    for name, size in needed.items():
        if sizes[name] < size:
            raise _CheckpointError(f"{folder.name}/{name} is damaged ({sizes[name]} bytes instead of {size})")


def _check_weights(folder: Path, files: list[str], tensors: Collection[str]) -> None:
    found = set()
    for name in files:
        try:
            with safetensors.safe_open(folder / name, framework="pt") as file:
                for key in file.keys():
                    if not torch.isfinite(file.get_tensor(key)).all():
                        raise _CheckpointError(f"{name} holds NaN or infinite values in {key}")
                    found.add(key)
        except (safetensors.SafetensorError, OSError) as error:
            raise _CheckpointError(f"{name} is damaged ({error})") from error
    missing = sorted(set(tensors) - found)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise _CheckpointError(f"{' and '.join(files)} lacks the tensors {', '.join(missing[:3])}{more}")
