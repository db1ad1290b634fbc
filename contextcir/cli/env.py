"""Print versions, devices, free disk, and which extras are installed: what a bug report needs.

    contextcir env
    contextcir env --report    # a bug report to fill in, with all of this in it

Of keys it says only whether they are set.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser

KEYS = ("OPENAI_API_KEY", "HF_TOKEN")
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "huggingface_hub", "pillow", "numpy")
REPORT = """### What I ran

```bash
contextcir ...
```

### What I expected, and what came instead

The whole message, with `--debug` after the command for a traceback. Leave out keys, and texts or images that are
private.

### Where

| | |
|---|---|
"""


@dataclass
class EnvArguments:
    """The form of what is printed."""

    _argument_group_name = "Environment"

    report: bool = HfArg(default=False, help="Print a bug report to fill in.")


def main(argv: Sequence[str]) -> int:
    """Print the environment, a line each."""
    (args,) = CommandParser([EnvArguments], "contextcir env", __doc__).parse(argv)
    if args.report:
        print(REPORT, end="")
    for name, value in environment().items():
        print(f"| {name} | {value} |" if args.report else f"{name}: {value}")
    return 0


def environment() -> dict[str, str]:
    """`dict[str, str]`: What is printed, by its name."""
    from contextcir import __version__
    from contextcir.runtime.provenance import code_commit

    free = shutil.disk_usage(".").free / 1e9
    return {
        "contextcir": f"{__version__} (commit {code_commit() or 'none: installed'})",
        "python": f"{platform.python_version()} on {platform.platform()}",
        **{library: _version(library) or "not installed" for library in LIBRARIES},
        "devices": _devices(),
        "free disk here": f"{free:.0f} GB",
        "extras": ", ".join(f"{name} ({'yes' if whole else 'no'})" for name, whole in extras().items()),
        **{key: "set" if os.environ.get(key) else "not set" for key in KEYS},
    }


def extras() -> dict[str, bool]:
    """`dict[str, bool]`: Of each extra of the package, whether all that it requires is installed."""
    found: dict[str, bool] = {}
    for line in importlib.metadata.requires("contextcir") or ():
        if extra := re.search(r"""extra == ['"]([\w-]+)""", line):
            library = re.match(r"[\w.-]+", line)
            assert library is not None
            found[extra[1]] = found.get(extra[1], True) and _version(library[0]) is not None
    return found


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> str:
    try:
        import torch
    except (ImportError, OSError) as error:  # a report must be had where torch is what is broken
        return f"unknown: torch cannot be imported ({error})"
    if not torch.accelerator.is_available():
        return f"CPU, {os.cpu_count()} cores"
    kind = str(torch.accelerator.current_accelerator(check_available=True)).partition(":")[0]
    count = torch.accelerator.device_count()
    names = [torch.cuda.get_device_name(place) for place in range(count)] if kind == "cuda" else [kind] * count
    return ", ".join(names)
