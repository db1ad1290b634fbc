"""Options in YAML files: read with each key once, and said as the flags of a command."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would take the last without a word."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """
    Read `option: value` lines.

    Raises:
        `ValueError`: There is no such file, it is not YAML, a key stands twice, or it holds anything but a mapping.
    """
    try:
        options = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ValueError(f"There is no {path}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML, `option: value` lines with each option once. {error}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{path}: expected `option: value` lines, got {type(options).__name__}.")
    return options


def as_flags(options: Mapping[str, Any]) -> list[str]:
    """Options as arguments of a command that an `HfArgumentParser` reads; those that are null are left out."""
    flags = []
    for name, value in options.items():
        if isinstance(value, list):
            flags += [f"--{name}", *map(_said, value)]
        elif value is not None:
            said = _said(value)
            # What begins with a dash would be taken for another option.
            flags += [f"--{name}={said}"] if said.startswith("-") else [f"--{name}", said]
    return flags


def _said(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (bool, dict)) else str(value)
