"""A disk that fills up while weights are written: name the file and the bytes, and leave nothing half-written."""

import errno
import os
import shutil
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# safetensors and torch do not raise `OSError`; of a failed write, torch says only that the position is unexpected.
_SIGNS = (
    "No space left",
    "Disk quota exceeded",
    "File too large",
    "os error 28",
    "unexpected pos",
    "file write failed",
)


class DiskFullError(OSError):
    """The disk is full, and the message says where."""


@contextmanager
def naming_a_full_disk(folder: str | os.PathLike, tensors: Sequence[Sequence[torch.Tensor]]) -> Iterator[None]:
    """
    Turn the error of a full disk, while files are written into a folder, into one that says what to do. A folder that
    was made for them is removed: it would be half a checkpoint.

    Args:
        folder (`str` or `os.PathLike`): Where files are written.
        tensors (`Sequence[Sequence[torch.Tensor]]`): What is written, from which the number of bytes is computed.

    Raises:
        DiskFullError: An `OSError`: the disk is full.
    """
    folder = Path(folder)
    is_new = not folder.is_dir()
    try:
        yield
    except Exception as error:
        if not _means_full_disk(error):
            raise
        needed = sum(tensor.numel() * tensor.element_size() for some in tensors for tensor in some)
        free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, DiskFullError):  # of a context inside this one
            raise
        raise DiskFullError(
            errno.ENOSPC,
            f"The disk is full: {_written_file(error) or folder} could not be written. All files need about"
            f" {needed:,} bytes, {free:,} are free there. Earlier checkpoints are untouched. Make room, or set"
            " save_total_limit, and resume from the last one with resume_from_checkpoint=True",
        ) from error


def _written_file(error: BaseException) -> str | None:
    """Return the file that was being written. Errors do not name it, the arguments of the functions that write do."""
    files = [
        str(frame.f_locals[name])
        for frame, _ in traceback.walk_tb(error.__traceback__)
        for name in ("filename", "f", "json_path", "path")  # of safetensors, torch, transformers and pathlib
        if isinstance(frame.f_locals.get(name), (str, os.PathLike))
    ]
    return files[-1] if files else None


def _means_full_disk(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL or any(sign in str(error) for sign in _SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False
