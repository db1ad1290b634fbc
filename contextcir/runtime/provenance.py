"""Where a number comes from: the commit of the code and the versions of the libraries that made it."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

LIBRARIES = ("contextcir", "torch", "transformers", "tokenizers", "datasets", "accelerate", "numpy", "pillow")


def provenance() -> dict[str, Any]:
    """`dict`: `commit`, see [`code_commit`], and `versions`, see [`versions`]."""
    return {"commit": code_commit(), "versions": versions()}


def code_commit(file: str | Path = __file__) -> str | None:
    """
    The commit that this code is at.

    Args:
        file (`str` or `Path`): A file of the code; by default of this package.

    Returns:
        `str`, *optional*: 40 hex digits, followed by `-dirty` where tracked files were changed since, other than those
        in `docs`, which runs themselves write; `None` where the code is no clone, but installed, or without git.
    """
    file = Path(file)
    git = ["git", "-C", str(file.parent)]
    try:
        # An installed package may lie inside of somebody else's clone, whose commit says nothing of this code.
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)docs"]).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("-dirty" if changed else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue  # contextcir itself, run from a clone without being installed
    return found
