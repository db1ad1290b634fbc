"""Scenes data, built once."""

import pytest

from tests import tiny_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Small scenes data with all splits of test queries."""
    return tiny_scenes.build(tmp_path_factory.mktemp("scenes") / "data", **tiny_scenes.ALL_SPLITS)
