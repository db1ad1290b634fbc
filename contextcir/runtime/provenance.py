"""Provenance of results: the commit of the code and the versions of the libraries."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

LIBRARIES = ("contextcir", "torch", "transformers", "tokenizers", "datasets", "accelerate", "numpy", "pillow")


def provenance() -> dict[str, Any]:
    """Return `commit` (see [`code_commit`]) and `versions` (see [`versions`])."""
    return {"commit": code_commit(), "versions": versions()}


def code_commit(file: str | Path = __file__) -> str | None:
    """
    Return the commit of the code.

    Args:
        file (`str` or `Path`): A file of the code; by default of this package.

    Returns:
        `str`, *optional*: 40 hex digits. `-dirty` is added if tracked files have changed since, except in `docs`,
        where runs write their results. `None` if the file is not tracked in a clone, or git is not installed.
    """
    file = Path(file)
    git = ["git", "-C", str(file.parent)]
    try:
        # An installed package may be inside another project's clone, whose commit says nothing about this code.
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)docs"]).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("-dirty" if changed else "")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that results depend on."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue  # contextcir itself, when it runs from a clone without being installed
    return found
