"""Scenes data, built once."""

import pytest

from tests import tiny_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """The smallest scenes data, with pictures that an oracle recognises."""
    return tiny_scenes.build(tmp_path_factory.mktemp("scenes") / "data", num_train=1, gallery_size=250, image_size=96)
