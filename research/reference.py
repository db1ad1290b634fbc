"""Render the reference pages: all commands from their docstrings, and the public names of the package."""

import importlib
import inspect
import re

import contextcir
from contextcir.cli import running
from contextcir.cli.main import COMMANDS


def commands() -> str:
    """Each command: what it does, and its examples."""
    parts = []
    for name, (module, _) in COMMANDS.items():
        doc = inspect.getdoc(importlib.import_module(module)) or ""
        lines, block = [f"## `contextcir {name}`", ""], False
        for line in doc.splitlines():
            command = line.startswith(("    ", "contextcir "))
            if command != block and (command or line.strip()):
                lines += ["```bash"] if command else ["```", ""]
                block = command
            lines.append(line.removeprefix("    ") if command else line)
        parts.append("\n".join([*lines, "```"] if block else lines).replace("\n\n```\n", "\n```\n"))
    return "\n\n".join(parts)


def exit_codes() -> str:
    """The table of exit codes."""
    return "\n".join(line for line in (running.__doc__ or "").splitlines() if line.startswith("|"))


def names() -> str:
    """Each public name: its signature and the first paragraph of its docstring, with the file that has the rest."""
    parts = []
    for name in contextcir.__all__:
        if name.startswith("__"):
            continue
        found = getattr(contextcir, name)
        signature = re.sub(
            r"\b(?:collections\.abc|contextcir|typing|PIL)\.(?:\w+\.)*(\w+)", r"\1", str(inspect.signature(found))
        )
        file = inspect.getsourcefile(found) or ""
        where = file[file.rindex("contextcir/") :]
        first = (inspect.getdoc(found) or "").strip().split("\n\n")[0]
        if name == "CIRTrainingArguments":  # the options of transformers among them
            signature = "(...)"
        parts.append(f"## `{name}`\n\n```python\n{name}{signature}\n```\n\n{first}\n\n[`{where}`](../{where})")
    return "\n\n".join(parts)
