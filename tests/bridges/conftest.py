"""Saved tiny models of all three classes."""

import pytest

from tests.models.conftest import KINDS, build  # noqa: F401  (a fixture)

EVERY = ["contextcir", "instructcir", "combiner"]


@pytest.fixture(scope="session", params=EVERY)
def saved(request, build, clip_folder, tmp_path_factory):  # noqa: F811
    """Folder with a model and its processor."""
    folder = tmp_path_factory.mktemp("saved") / request.param
    build(request.param).save_pretrained(folder)
    KINDS[request.param][1].from_pretrained(clip_folder).save_pretrained(folder)
    return folder
