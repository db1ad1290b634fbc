"""The oldest and the newest Python: the wheel installs, every command answers, every file compiles, data are written.

All that the package requires is installed from the package index but torch, which is gigabytes on these, and
accelerate, which needs it. `python -m research.release --tour_on python3.10` takes the tour with torch.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from contextcir.cli.main import COMMANDS
from research import release
from tests.test_extras import UNREACHABLE

ROOT = Path(__file__).parents[1]
WITHOUT = {"torch", "accelerate"}
OF_EXTRAS = r"^(evaluate|matplotlib|mteb|openai|prometheus_client|starlette)$|contextcir\[\w+\]"
SMALL = {"num_train": 24, "num_validation": 24, "num_test": 24, "gallery_size": 200, "image_size": 48}
USE = """
import importlib, json, pkgutil, sys
import contextcir, datasets_scripts
from contextcir.cli.main import COMMANDS, main

answered = []
for command in COMMANDS:
    try:
        code = main([command, "--help"])
    except SystemExit as stopped:
        code = stopped.code
    answered += [command] * (code == 0)
read, stopped_at = [], {}
packages = [contextcir, datasets_scripts]
for module in [module for one in packages for module in pkgutil.walk_packages(one.__path__, one.__name__ + ".")]:
    try:
        importlib.import_module(module.name)
        read.append(module.name)
    except ImportError as error:
        stopped_at[module.name] = error.name or str(error)
wrote = main(["data", "scenes", "--output", "scenes", *sys.argv[1:]])
with open("said.json", "w") as file:
    json.dump({"answered": answered, "read": read, "stopped_at": stopped_at, "wrote": wrote}, file)
"""


def interpreter(version: str) -> str:
    """Return the program of a version of Python, also where pyenv keeps it. Skips the test if there is none."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        pytest.skip(f"Python {version} runs all tests.")
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob(f"{version}.*/bin/python")
    for candidate in [shutil.which(f"python{version}"), *map(str, sorted(kept))]:
        code = "import sys, ensurepip, ssl; print('%d.%d' % sys.version_info[:2])"
        if candidate:
            said = subprocess.run(
                [candidate, "-c", code], capture_output=True, text=True
            )  # a shim may know no version
            if said.stdout.strip() == version:
                return candidate
    pytest.skip(f"There is no Python {version} on this machine.")


@pytest.mark.slow
@pytest.mark.timeout(600)  # two minutes of a busy machine go into unpacking libraries
@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_a_wheel_on_another_python(version, tmp_path):
    python = interpreter(version)
    _, wheel = release.build(ROOT, tmp_path / "dist")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    required = [
        line for line in re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE) if "extra ==" not in line
    ]
    wanted = [line for line in required if re.match(r"[\w-]+", line)[0] not in WITHOUT]
    assert len(wanted) == len(required) - len(WITHOUT)
    home = tmp_path / "environment"
    subprocess.run([python, "-m", "venv", str(home)], check=True)
    install = [str(home / "bin" / "pip"), "install", "--quiet", "--no-cache-dir", "--no-compile"]
    install += ["--retries", "1", "--timeout", "20"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
    done = subprocess.run(
        [*install, "--constraint", str(ROOT / "constraints.txt"), *wanted], capture_output=True, text=True
    )
    if "from versions: none" in done.stderr and UNREACHABLE.search(done.stderr):
        pytest.skip("The package registry cannot be reached.")
    assert done.returncode == 0, done.stderr[-3000:]

    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "PYTHONWARNINGS": "error::SyntaxWarning"}
    programs, where = home / "bin", {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    assert subprocess.run([programs / "contextcir", "--version"], **where).stdout.startswith("contextcir ")
    compiled = subprocess.run(
        [programs / "python", "-m", "compileall", "-qf", *home.glob("lib/*/*/*contextcir")], **where
    )
    assert compiled.returncode == 0, compiled.stdout
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    used = subprocess.run([programs / "python", "-c", USE, *options], **where)
    assert used.returncode == 0, used.stderr[-3000:]
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["wrote"] == 0 and list((tmp_path / "scenes" / "triplets").glob("train*.parquet"))
    assert said["answered"] == list(COMMANDS) and len(said["read"]) > 150
    others = {reason for reason in said["stopped_at"].values() if reason not in WITHOUT}
    assert all(re.search(OF_EXTRAS, reason) for reason in others), others  # of the rest, nothing is missing or too old
