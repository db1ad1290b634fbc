"""Write files whole or not at all, publish one once, and claim work that a killed process gives back."""

import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import save_file

HEADER = "header"  # key of the metadata of safetensors files


def write_whole(path: Path, content: bytes | Mapping[str, torch.Tensor], header: str = "") -> None:
    """
    Write a file so that it is there whole or not at all, whatever happens meanwhile.

    Args:
        path (`Path`): The file. One that is there is replaced.
        content (`bytes` or `Mapping[str, torch.Tensor]`): The content, or tensors to write as safetensors, without
            another copy of them in memory.
        header (`str`): The metadata of safetensors. There is one key: several would be in random order, and the file
            would differ from process to process.

    Raises:
        `OSError`: The disk is full; the message says how many bytes are needed. Or another error of the file system.
    """
    part = _write_part(path, content, header)
    os.replace(part, path)
    _sync_folder(path.parent)


def publish_once(path: Path, content: bytes) -> bool:
    """Write a file as [`write_whole`] does, unless there is one. Returns whether it was written. Of several processes,
    on one host or on a shared file system, exactly one succeeds."""
    part = _write_part(path, content)
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    finally:
        part.unlink()
    _sync_folder(path.parent)
    return True


def _write_part(path: Path, content: bytes | Mapping[str, torch.Tensor], header: str = "") -> Path:
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    try:
        if isinstance(content, bytes):
            part.write_bytes(content)
        else:
            save_file(dict(content), part, metadata={HEADER: header})
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        if not _is_full(error):
            raise
        needed = len(content) if isinstance(content, bytes) else sum(one.nbytes for one in content.values())
        raise OSError(
            errno.ENOSPC,
            f"{path}: the disk is full. {needed + len(header):,} bytes are needed,"
            f" {shutil.disk_usage(path.parent).free:,} are free. What was finished before stays usable: make room, and"
            " run the same command again.",
        ) from error
    return part


def _is_full(error: Exception) -> bool:
    """Whether an error says that there is no room. Safetensors says it in words, with the number of the error."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(f"os error {number})" in str(error) for number in full)


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot
        pass
    finally:
        os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Remove what killed processes of this host left half-written."""
    for part in folder.glob(f".*.{socket.gethostname()}.*.part"):
        try:
            os.kill(int(part.name.split(".")[-2]), 0)
        except ProcessLookupError:
            part.unlink(missing_ok=True)
        except PermissionError:  # somebody else's process, and alive
            continue


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """
    Claim a piece of work for the duration of a `with` block. Yields whether it was free.

    The kernel gives the claim back when its process ends, however it ends. Where the file system has no locks (some
    are shared between hosts), every claim succeeds: two workers may then do the same work, which writes the same file.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    except (NotImplementedError, OSError):
        pass
    try:
        yield True
    finally:
        lock.release()


def to_json(value: Any) -> bytes:
    """A value as sorted, compact JSON: the same bytes in every process."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
