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
        `str`, *optional*: 40 digits, followed by `-dirty` where tracked files were changed since, other than those in
        `docs`, which runs themselves write; `None` outside of a clone, or without git.
    """
    git = ["git", "-C", os.fspath(folder)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)docs"]).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("-dirty" if changed else "")


def versions() -> dict[str, str]:
    """Of Python and of the libraries that numbers may depend on; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue  # contextcir itself, run from a clone without being installed
    return found
