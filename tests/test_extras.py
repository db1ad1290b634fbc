"""The extras: all of them install together under `constraints.txt`, and `make install` installs them."""

import re
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOGGERS = {
    "tensorboard",
    "trackio",
    "wandb",
}  # for `report_to`: not part of `make install`, nor pinned
UNREACHABLE = re.compile(r"NewConnectionError|ConnectTimeoutError|NameResolutionError|ProxyError|ReadTimeoutError")


def test_make_installs_every_extra_but_the_loggers():
    (listed,) = re.findall(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(listed.split(",")) == set(EXTRAS) - LOGGERS and set(EXTRAS) >= LOGGERS


def test_every_extra_is_constrained():
    """What is not pinned may change under a test from one day to the next."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonical(line.split("==")[0]) for line in lines}
    wanted = [*PROJECT["dependencies"], *(one for name in set(EXTRAS) - LOGGERS for one in EXTRAS[name])]
    assert {canonical(re.match(r"[\w.-]+", one)[0]) for one in wanted} <= pinned


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
