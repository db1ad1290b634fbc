"""Run the notebooks, and write their outputs into them.

    python -m research.notebooks              # all of notebooks/
    python -m research.notebooks 1_search     # one of them

Each runs in an empty folder, without a network, by a kernel of its own as in Jupyter. What is kept of the outputs is
the same each time: no progress, no metadata, and small pictures. After a change that a reader of the notebooks would
see, such as another model that ships, run them again and look at them.
"""

import argparse
import base64
import io
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_output
from traitlets.config import Config

from contextcir.data.images import load_image
from contextcir.visualization.page import with_few_colours

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
ENVIRONMENT["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm wants ipywidgets for its bars, which are not kept
PROGRESS = re.compile(r"\r[^\n]*\n?")
KERNEL = ["--InteractiveShell.colors=nocolor"]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
LARGEST, LARGEST_OF_ALL = 400_000, 1_600_000  # bytes
UNWANTED = {  # what it is -> pattern of a text that no output may have
    "a path of this machine": rf"(?<![\w.])/(?:tmp|home|root|var|usr|opt)/|{re.escape(str(ROOT))}\b",
    "progress": r"\r|it/s\b|\d%\|",
    "a warning": r"\w*Warning\b",
    "an address in memory": r"\bat 0x[0-9a-f]+",
    "a time": r"\b\d+(?:\.\d+)? ?(?:ms|seconds?|minutes?)\b",
}


def notebooks() -> list[Path]:
    """The notebooks, in the order of their numbers."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path, folder: str | os.PathLike) -> NotebookNode:
    """
    Run a notebook.

    Args:
        path (`Path`): The notebook. It is not changed.
        folder (`str` or `os.PathLike`): Where it runs.

    Returns:
        `NotebookNode`: The notebook with its outputs.

    Raises:
        `CellExecutionError`: A cell fails. The message has the cell and its traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as settings:  # none of those of whoever runs this
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        packages = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        env = os.environ | ENVIRONMENT | {"PATH": programs, "PYTHONPATH": packages, "IPYTHONDIR": settings}
        env |= {"HF_HOME": settings, "TMPDIR": os.fspath(folder)}  # caches and temporary files end with the run
        # Sockets in place of ports: of the ports that are free when a kernel starts, another process may take one.
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{settings}/kernel"}})
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            extra_arguments=KERNEL,
            record_timing=False,
            resources={"metadata": {"path": os.fspath(folder)}},
            config=sockets,
        )
        return client.execute(env=env)


def clean(notebook: NotebookNode) -> None:
    """Leave of a notebook that has run what a reader needs, and what is the same on every machine."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(keep, joined(cell.outputs)) if output is not None]


def joined(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Join what was printed, however it came: what was said on the way (stderr) first, then the rest."""
    found: list[NotebookNode] = []
    for printed, some in groupby(outputs, key=lambda output: output.output_type == "stream"):
        if not printed:
            found += some
            continue
        texts: dict[str, str] = {}
        for output in some:
            texts[output.name] = texts.get(output.name, "") + output.text
        found += [new_output("stream", name=name, text=texts[name]) for name in sorted(texts)]
    return found


def keep(output: NotebookNode) -> NotebookNode | None:
    """Leave of a picture the picture alone, and of what was said what is not progress: nothing is `None`."""
    if output.output_type == "stream":
        output.text = PROGRESS.sub("", output.text)
        return output if output.text.strip() else None
    if "<progress" in output.get("data", {}).get("text/html", ""):  # of transformers
        return None
    if image := output.get("data", {}).get("image/png"):
        output.data, output.metadata = NotebookNode(smaller(image)), NotebookNode()
    return output


def smaller(png: str) -> dict[str, str]:
    """
    Encode a picture as a PNG with 256 colours, which is good for charts, or as a JPEG, which is good for photographs.

    Args:
        png (`str`): In base64.

    Returns:
        `dict[str, str]`: Its type -> the smaller of the two, in base64.
    """
    picture = load_image(base64.b64decode(png))
    made = []
    for kind, image, options in (("png", with_few_colours(picture), {}), ("jpeg", picture, {"quality": 80})):
        image.save(file := io.BytesIO(), kind, optimize=True, **options)
        made.append((len(file.getvalue()), f"image/{kind}", base64.b64encode(file.getvalue()).decode()))
    _, kind, text = min(made)
    return {kind: text}


def problems(path: Path) -> list[str]:
    """What is wrong with the outputs of a notebook, a line each."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = []
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("its cells have not run one after the other")
    outputs = [output for cell in cells for output in cell.outputs]
    if not any(kind.startswith("image/") for output in outputs for kind in output.get("data", {})):
        found.append("it shows no picture")
    for output in outputs:
        text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        if output.output_type == "error":
            found.append(f"a cell has failed with {output.ename}")
        found += [f"{what} is in {text!r}" for what, pattern in UNWANTED.items() if re.search(pattern, text)]
    if (size := path.stat().st_size) > LARGEST:
        found.append(f"it has {size:,} bytes, more than {LARGEST:,}")
    return found


def main(argv: Sequence[str]) -> int:
    """Run notebooks. Returns 1 if one has outputs that are not for a reader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names without .ipynb; by default all")
    args = parser.parse_args(argv)
    bad = 0
    for path in [FOLDER / f"{name}.ipynb" for name in args.names] or notebooks():
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, folder)
        clean(notebook)
        nbformat.write(notebook, path)
        found = problems(path)
        bad += bool(found)
        print(f"{path.stem}: {path.stat().st_size:,} bytes", *found, sep="\n  ", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
