"""Render the reference pages: all commands from their docstrings, and the public names of the package."""

import importlib
import inspect
import re
from pathlib import Path

import contextcir
from contextcir.cli import running
from contextcir.cli.main import COMMANDS

API = Path(__file__).parents[1] / "docs" / "api"


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
    """Each public name with its first sentence, linked to the page of the site that has the rest."""
    lines = ["| | |", "|---|---|"]
    for name, page in pages_of_names().items():
        doc = inspect.getdoc(getattr(contextcir, name)) or ""
        first = re.sub(r"\[`~?(?:\w+\.)*(\w+)`\]", r"`\1`", " ".join(doc.split("\n\n")[0].split()))
        first = first.replace("|", "\\|")
        lines.append(f"| [`{name}`](api/{page}#contextcir.{name}) | {first} |")
    return "\n".join(lines)


def pages_of_names() -> dict[str, str]:
    """
    Find the page in `docs/api` that shows each public name.

    Raises:
        ValueError: A name is on no page, or on several.
    """
    shown: dict[str, list[str]] = {name: [] for name in contextcir.__all__ if not name.startswith("__")}
    for page in sorted(API.glob("*.md")):
        for name in re.findall(r"^::: contextcir\.(\w+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            shown[name].append(page.name)
    for name, pages in shown.items():
        if len(pages) != 1:
            raise ValueError(
                f"{name} is on {pages or 'no page'} of docs/api, expected one line `::: contextcir.{name}`."
            )
    return {name: pages[0] for name, pages in shown.items()}
