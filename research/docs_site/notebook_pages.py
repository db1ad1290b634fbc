"""A notebook as a page of the site: its text, its code, and what it has shown."""

import base64
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

SHELL = "%%bash\n"


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """
    Make a page of a notebook that has run.

    Args:
        path (`Path`): The notebook.

    Returns:
        `tuple[str, dict[str, bytes]]`: The page in Markdown; and its pictures, which are expected beside it, by name.
    """
    cells = nbformat.read(path, as_version=4).cells
    pictures: dict[str, bytes] = {}
    parts = []
    for cell in cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        is_shell = cell.source.startswith(SHELL)
        parts.append(fenced(cell.source.removeprefix(SHELL), "bash" if is_shell else "python"))
        for output in cell.outputs:
            found = dict(images(output))
            for kind, content in found.items():
                name = f"{path.stem}_{len(pictures) + 1}.{kind}"
                pictures[name] = content
                parts.append(f"![What the code above draws]({name})")
            text = output.get("text") or output.get("data", {}).get("text/plain")
            if text and not found:
                parts.append(fenced(text.rstrip("\n"), "{ .text .output }"))
    download = f'<a href="{path.name}" download>This page as a notebook</a>, to run it.'
    return "\n\n".join([parts[0], download, *parts[1:]]) + "\n", pictures


def images(output: NotebookNode) -> Iterator[tuple[str, bytes]]:
    """The pictures of an output, each with its kind, such as `png`."""
    for kind, text in output.get("data", {}).items():
        if kind.startswith("image/"):
            yield kind.removeprefix("image/"), base64.b64decode(text)


def fenced(text: str, head: str) -> str:
    """A block of code."""
    return f"````{head}\n{text}\n````"
