"""The real data, where they are on this machine."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real annotations and golden values."""
    if "CIR_DATA_ROOT" not in os.environ:
        pytest.skip("CIR_DATA_ROOT is not set: no real annotations")
    return Path(os.environ["CIR_DATA_ROOT"])


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """Keep indexes of images out of the home folder."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder
