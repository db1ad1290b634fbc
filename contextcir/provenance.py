"""Where a number comes from: the commit of the code and the versions of the libraries that made it."""

import importlib.metadata
import os
import platform
import subprocess

LIBRARIES = ("contextcir", "torch", "transformers", "tokenizers", "datasets", "accelerate", "numpy", "pillow")


def git_commit(folder: str | os.PathLike) -> str | None:
    """
    The commit that a folder of a clone is at.

    Args:
        folder (`str` or `os.PathLike`): Any folder inside of the clone.

    Returns:
        `str`, *optional*: 40 digits, followed by `-dirty` where tracked files were changed since; `None` outside of a
        clone, or without git.
    """
    git = ["git", "-C", os.fspath(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Of Python and of the libraries that numbers may depend on; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue  # contextcir itself, run from a clone without being installed
    return found
