"""Where a name leads: a path here, a file that ships with the package, or the Hub."""

import logging
import os
import re
from difflib import get_close_matches
from pathlib import Path

logger = logging.getLogger("contextcir")

_PACKAGE = Path(__file__).parents[1]
_CHECKOUT = _PACKAGE.parent
# Recipes, templates of cards and the tiny CLIP lie at the top of a checkout, and in the wheel inside the package.
ROOT = _CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() else _PACKAGE / "shipped"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def shipped(path: str | os.PathLike) -> Path:
    """
    Find a file or folder: as given, or else as it ships with the package.

    Args:
        path (`str` or `os.PathLike`): Such as `configs/scenes_tiny.yaml`.

    Returns:
        `Path`: The path as given where it exists, or where nothing of this name ships.

    Example:

    ```python
    >>> shipped("configs/scenes_tiny.yaml").is_file()
    True
    ```"""
    path = Path(path)
    return ROOT / path if not path.exists() and (ROOT / path).exists() else path


def locate(name: str) -> str:
    """
    Tell a path from a name on the Hub, so that a misspelt path is reported before the Hub is asked.

    Args:
        name (`str`): A path, or the name of a model or data set on the Hub. `hf://user/name` is always the Hub's.

    Returns:
        `str`: The path, here or as it ships with the package; or the name on the Hub.

    Raises:
        `ValueError`: It is a path that does not exist: it is no valid name on the Hub, or begins with a folder that
            exists here.
    """
    if name.startswith("hf://"):
        return name.removeprefix("hf://")
    path = shipped(name)
    if path.exists():
        return str(path)
    folder = Path(name).parent
    inside = folder != Path(".") and folder.is_dir()
    if _HUB_NAME.fullmatch(name) and not inside and not name.startswith("."):
        logger.warning("There is no %s here: looking for it on the Hub.", name)
        return name
    near = get_close_matches(Path(name).name, os.listdir(folder), n=1) if folder.is_dir() else []
    advice = f" Did you mean {folder / near[0]}?" if near else " Check the path."
    hub = f" For the Hub, write hf://{name}." if inside and _HUB_NAME.fullmatch(name) else ""
    raise ValueError(f"There is no {name} here.{advice}{hub}")
