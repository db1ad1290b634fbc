"""The extras: they install together under `constraints.txt`, and `make install` installs them."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOGGERS = {"tensorboard", "trackio", "wandb"}  # for `report_to`: not part of `make install`, nor pinned
# Its gradio wants Pillow 12, where constraints.txt has 13: pip would go back through years of gradio to find one that
# says nothing of Pillow, and a trackio as old. Without constraints.txt it installs with Pillow 12.
APART = {"trackio"}
UNREACHABLE = re.compile(r"NewConnectionError|ConnectTimeoutError|NameResolutionError|ProxyError|ReadTimeoutError")


def test_make_installs_every_extra_but_the_loggers():
    (listed,) = re.findall(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(listed.split(",")) == set(EXTRAS) - LOGGERS and set(EXTRAS) >= LOGGERS >= APART


def test_every_extra_is_constrained():
    """What is not pinned may change under a test from one day to the next."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonical(line.split("==")[0]) for line in lines}
    wanted = [*PROJECT["dependencies"], *(one for name in set(EXTRAS) - LOGGERS for one in EXTRAS[name])]
    assert {canonical(re.match(r"[\w.-]+", one)[0]) for one in wanted} <= pinned


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="needs pip")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="constraints.txt pins some packages for Python 3.11 and newer")
def test_all_extras_install_together():
    """pip finds versions that fit each other, of all extras but those of `APART`. Nothing is installed."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-build-isolation"]
    command += ["--constraint", str(ROOT / "constraints.txt"), "--retries", "1", "--timeout", "10"]
    command.append(f"{ROOT}[{','.join(sorted(set(EXTRAS) - APART))}]")
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    if "from versions: none" in done.stderr and UNREACHABLE.search(done.stderr):
        pytest.skip("The package registry cannot be reached: whether the extras fit each other is not known.")
    assert done.returncode == 0, done.stderr[-3000:]
