"""Find files and folders by name: local, shipped with the package, or on the Hub."""

import logging
import os
import re
from difflib import get_close_matches
from pathlib import Path

logger = logging.getLogger("contextcir")

_PACKAGE = Path(__file__).parents[1]
_CHECKOUT = _PACKAGE.parent
# Recipes, card templates and the tiny CLIP are at the top of a checkout. In a wheel they are inside the package.
ROOT = _CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() else _PACKAGE / "shipped"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def shipped(path: str | os.PathLike) -> Path:
    """
    Find a local file or folder, or else one that ships with the package.

    Args:
        path (`str` or `os.PathLike`): Such as `configs/scenes_tiny.yaml`.

    Returns:
        `Path`: The path as given if it exists, or if the package ships nothing of this name.
    """
    path = Path(path)
    return ROOT / path if not path.exists() and (ROOT / path).exists() else path


def locate(name: str) -> str:
    """
    Tell a path from a name on the Hub. A misspelt path is an error before the Hub is asked.

    Args:
        name (`str`): A path, or the name of a model or data set on the Hub. `hf://user/name` is always on the Hub.

    Returns:
        `str`: The local or shipped path, or the name on the Hub.

    Raises:
        `ValueError`: The path does not exist, and it is not a valid name on the Hub or begins with an existing folder.
    """
    if name.startswith("hf://"):
        return name.removeprefix("hf://")
    path = shipped(name)
    if path.exists():
        return str(path)
    parent = Path(name).parent
    folder = shipped(parent)
    in_folder = parent != Path(".") and folder.is_dir()
    hub_name = _HUB_NAME.fullmatch(name) and not name.startswith(".")
    if hub_name and not in_folder:
        logger.warning("There is no local file or folder %s: looking for it on the Hub.", name)
        return name
    similar = get_close_matches(path.name, os.listdir(folder), n=1) if folder.is_dir() else []
    advice = f" Did you mean {parent / similar[0]}?" if similar else " Check the path."
    hub = f" For the Hub, write hf://{name}." if hub_name else ""
    raise ValueError(f"There is no local file or folder {name}.{advice}{hub}")
