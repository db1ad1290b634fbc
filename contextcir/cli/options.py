"""Options of commands: flags and YAML files for dataclasses, help in groups, and errors with the nearest option."""

import argparse
import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers.hf_argparser import HfArgumentParser, string_to_bool

from contextcir.runtime.locations import shipped

YAML = (".yaml", ".yml")


class UsageError(ValueError):
    """The options of a command cannot be used: unknown, missing or malformed."""

    exit_code = 2


class CommandParser(HfArgumentParser):
    """
    The options of one command.

    Args:
        kinds (`Sequence[type]`): Dataclasses. Each is a group in the help, named by its `_argument_group_name`.
        prog (`str`): The command, such as `contextcir train`.
        doc (`str`): The docstring of its module. Its first paragraph is the description, and the first command in it
            the example.
        positional (`Sequence[str]`): Options that may be given without their name, as the first words, in this order.
    """

    def __init__(self, kinds: Sequence[type], prog: str, doc: str, positional: Sequence[str] = ()):
        example = re.search(r"^(?:    )?((?:accelerate|contextcir|python) (?:.*\\\n)*.+)", doc, re.MULTILINE)
        super().__init__(
            kinds,
            prog=prog,
            description=doc.split("\n\n")[0].strip(),
            epilog=(f"Example:\n  {example[1]}\n\n" if example else "") + "--debug shows the traceback of an error.",
            usage=" ".join([prog, *(f"[{name.upper()}]" for name in positional), "[FILE.yaml] [--option value ...]"]),
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self.positional = positional

    def parse(self, argv: Sequence[str], prepare: Callable[[Sequence[str]], Sequence[str]] = list) -> tuple[Any, ...]:
        """
        Read options from flags and YAML files in any order. Flags override files, and later files earlier ones.

        Args:
            argv (`Sequence[str]`): The arguments of the command.
            prepare (`Callable[[Sequence[str]], Sequence[str]]`, *optional*): Changes the flags before they are read,
                those of the files included.

        Returns:
            `tuple`: An instance of each dataclass.

        Raises:
            `UsageError`: An option is unknown, missing or malformed.
            `ValueError`: As the dataclasses raise for values that do not fit together.
        """
        files, flags = self._split(self._name_positional(list(argv)))
        options: list[str] = []
        for file in files:
            options += as_flags(self._known(read_yaml(file), file))
        words = list(prepare([*options, *flags]))
        _, rest = self.parse_known_args(words)  # before the dataclasses look at the values
        if rest:
            advice = _similar(rest[0], self._option_string_actions)
            kind = "option" if rest[0].startswith("-") else "place for"
            self.error(f"There is no {kind} {rest[0]!r}.{advice}")
        return self.parse_args_into_dataclasses(words, look_for_args_file=False)

    def parse_known(self, argv: Sequence[str]) -> tuple[Any, list[str]]:
        """The first dataclass, and the arguments that are not its own: those of another command that follows."""
        args, rest = self.parse_args_into_dataclasses(
            list(argv), return_remaining_strings=True, look_for_args_file=False
        )
        return args, rest

    def error(self, message: str):
        """Raise a `UsageError`, where argparse would print the usage and exit."""
        message = re.sub(r"(--\w+)/--[\w-]+", r"\1", message)  # one spelling of each option
        message = message if message.endswith(("?", ".")) else f"{message}."
        raise UsageError(f"{message[0].upper()}{message[1:]} `{self.prog} --help` lists the options.")

    def _name_positional(self, argv: list[str]) -> list[str]:
        """Give the first words the names of the options that they are."""
        for place, name in enumerate(self.positional):
            if place >= len(argv) or argv[place].startswith("-") or argv[place].endswith(YAML):
                break
            argv[place] = f"--{name}={argv[place]}"
        return argv

    def _split(self, argv: Sequence[str]) -> tuple[list[str], list[str]]:
        """YAML files, and everything else. A file is not the value of the option before it."""
        files: list[str] = []
        flags: list[str] = []
        for before, word in zip(["", *argv], argv, strict=False):
            action = self._option_string_actions.get(before)
            is_value = action is not None and action.nargs is None
            (files if word.endswith(YAML) and not word.startswith("-") and not is_value else flags).append(word)
        return files, flags

    def _known(self, options: Mapping[str, Any], file: str) -> Mapping[str, Any]:
        for name in options:
            if f"--{name}" not in self._option_string_actions:
                raise UsageError(
                    f"{file}: There is no option {name!r}." + _similar(str(name), self._option_string_actions)
                )
        return options


def _similar(word: str, names) -> str:
    known = {name.lstrip("-"): name for name in names}
    nearest = difflib.get_close_matches(word.partition("=")[0].lstrip("-"), known, n=1)
    return f" Did you mean {known[nearest[0]]}?" if nearest else ""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """One line for each option, with the kind of value that it takes and its default where there is one."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=110)

    def add_argument(self, action):
        if not any(name.startswith("--no_") for name in action.option_strings):
            super().add_argument(action)

    def _format_action_invocation(self, action):
        name = action.option_strings[0]
        if action.const is True and action.default is True:  # HfArgumentParser adds --no_NAME
            return f"--[no_]{name.removeprefix('--')}"
        if action.choices:
            return f"{name} {{{','.join(map(str, action.choices))}}}"
        if action.nargs == 0 or action.const is True:
            return name
        kind = "true|false" if action.type is string_to_bool else getattr(action.type, "__name__", "text")
        kind = "text" if kind == "str" else kind
        return f"{name} {kind}{' ...' if action.nargs == '+' else ''}"

    def _get_help_string(self, action):
        text = (action.help or "").replace("%", "%%")
        shown = action.default not in (None, False, argparse.SUPPRESS, "") and action.option_strings
        return f"{text} (default: {str(action.default).replace('%', '%%')})" if shown else text


class _Loader(yaml.SafeLoader):
    """Refuse a key that is given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """
    Read `option: value` lines.

    Args:
        path (`str` or `Path`): A file, or a recipe that ships with the package, such as `configs/scenes_tiny.yaml`.

    Returns:
        `dict`

    Raises:
        `ValueError`: There is no such file, it is not YAML, a key is given twice, or it is not a mapping.
    """
    try:
        options = yaml.load(shipped(path).read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML, `option: value` lines with each option once. {error}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{path}: expected `option: value` lines, got {type(options).__name__}.")
    return options


def as_flags(options: Mapping[str, Any]) -> list[str]:
    """Options as arguments of a command. Those that are null are left out."""
    flags = []
    for name, value in options.items():
        if isinstance(value, list):
            flags += [f"--{name}", *map(_as_text, value)]
        elif value is not None:
            text = _as_text(value)
            # A value that begins with a dash would be taken for another option.
            flags += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    return flags


def _as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (bool, dict)) else str(value)
