"""Reserve an output folder for one run: two runs would mix their checkpoints, logs and cards."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from contextcir.training.checkpoints import last_whole_checkpoint


@contextmanager
def claim_folder(folder: str | os.PathLike, *, resuming: bool = False, is_main_process: bool = True) -> Iterator[None]:
    """
    Reserve a folder for this run within a context. All processes enter it, and the main one holds the lock.

    Args:
        folder (`str` or `os.PathLike`): The folder, which is made if it does not exist.
        resuming (`bool`, defaults to `False`): Whether results in the folder belong to this run.
        is_main_process (`bool`, defaults to `True`): Whether this is the main process.

    Raises:
        ValueError: Another run uses the folder or has left results. All processes raise it.
    """
    lock = FileLock(os.path.join(folder, "_train.lock"), timeout=0)
    try:
        problem = [_problem(Path(folder), lock, resuming) if is_main_process else None]
        (message,) = broadcast_object_list(problem)  # all processes must stop together
        if message:
            raise ValueError(message)
        yield
    finally:
        lock.release()


def _problem(folder: Path, lock: FileLock, resuming: bool) -> str | None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except Timeout:
        return f"Another run is training into {folder}. Choose another output_dir."
    if resuming or not (result := _first_result(folder)):
        return None
    return (
        f"{folder} holds the results of another run ({result}). Choose another output_dir, remove the folder, or set"
        " resume_from_checkpoint."
    )


def _first_result(folder: Path) -> str | None:
    """Return the name of a result in a folder. What a killed run has left half-written is none."""
    if checkpoint := last_whole_checkpoint(folder):
        return Path(checkpoint).name
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safetensors.safe_open(path, framework="pt"):
                return path.name
        except (safetensors.SafetensorError, OSError):
            continue
    return next((path.name for path in folder.glob("trainer_state.json")), None)
